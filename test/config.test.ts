import t from 'tap'
import { ConfigError, readConfig, roles, variables } from '../src/config.ts'
import { generateSecret } from '../src/deliver/signature.ts'

t.test('an empty environment gives the defaults', async (t) => {
  t.same(readConfig({}), {
    port: 3000,
    host: '127.0.0.1',
    redisUrl: null,
    catalogPath: 'quartet.config.json',
    roles: new Set(roles),
    bullmqPrefix: 'bull',
    waitReplicas: 0,
    webhookSecrets: null,
    callbackSchedule: [5_000, 30_000, 120_000, 600_000, 3_600_000, 10_800_000, 28_800_000, 86_400_000],
    callbackConcurrency: 50,
    callbackAllow: [],
    callbackProxy: null,
    auth: new Set(),
    jwtJwksUrl: '',
    jwtIssuer: '',
    jwtAudience: '',
    jwtTenantClaim: 'tenant',
    jwtScopeClaim: 'scope',
    authorizerUrl: '',
    corsOrigins: [],
    trustedProxies: [],
    allowAnonymous: false,
    rateLimit: null,
    failedCredentials: null,
    maxStreams: null,
    maxSockets: null,
    socketMessages: { count: 1_000, perMs: 1_000 },
    maxSubscriptions: 128,
    maxBodyBytes: 1_048_576,
    maxResultBytes: 8_388_608,
    maxProgressBytes: 1_048_576,
    logLevel: 'info',
  })
})

t.test('every variable is read', async (t) => {
  const secrets = `${generateSecret()}, ${generateSecret()}`
  const config = readConfig({
    PORT: '0',
    HOST: '::',
    REDIS_URL: 'rediss://user:secret@redis.internal:6380/1',
    QUARTET_CONFIG: '/etc/quartet.json',
    QUARTET_ROLES: 'http, collect',
    QUARTET_BULLMQ_PREFIX: '{jobs}',
    QUARTET_WAIT_REPLICAS: '2',
    QUARTET_WEBHOOK_SECRET: secrets,
    QUARTET_CALLBACK_SCHEDULE: '100ms, 2s,3m,4h,1d',
    QUARTET_CALLBACK_CONCURRENCY: '7',
    QUARTET_CALLBACK_ALLOW: '127.0.0.1, 10.0.0.0/8,fd00::/8',
    QUARTET_CALLBACK_PROXY: 'http://user:secret@proxy.internal:3128',
    QUARTET_AUTH: 'keys, jwt,authorizer',
    QUARTET_JWT_JWKS_URL: 'https://issuer.internal/jwks.json',
    QUARTET_JWT_ISSUER: 'https://issuer.internal',
    QUARTET_JWT_AUDIENCE: 'quartet',
    QUARTET_JWT_TENANT_CLAIM: 'org',
    QUARTET_JWT_SCOPE_CLAIM: 'permissions',
    QUARTET_AUTHORIZER_URL: 'http://auth.internal:8080/check?for=quartet',
    QUARTET_CORS_ORIGINS: 'https://example.com, http://localhost:5173',
    QUARTET_TRUSTED_PROXIES: '10.0.0.0/8, ::1',
    QUARTET_RATE_LIMIT: '1000/2m',
    QUARTET_FAILED_CREDENTIALS: '100/1h',
    QUARTET_MAX_STREAMS_PER_KEY: '100',
    QUARTET_MAX_SOCKETS_PER_KEY: '10',
    QUARTET_SOCKET_MESSAGES: '1/1h',
    QUARTET_MAX_SUBSCRIPTIONS: '1',
    QUARTET_MAX_BODY_BYTES: '2',
    QUARTET_MAX_RESULT_BYTES: '3',
    QUARTET_MAX_PROGRESS_BYTES: '4',
    LOG_LEVEL: 'silent',
  })
  t.same(config, {
    port: 0,
    host: '::',
    redisUrl: 'rediss://user:secret@redis.internal:6380/1',
    catalogPath: '/etc/quartet.json',
    roles: new Set(['http', 'collect']),
    bullmqPrefix: '{jobs}',
    waitReplicas: 2,
    webhookSecrets: secrets,
    callbackSchedule: [100, 2_000, 180_000, 14_400_000, 86_400_000],
    callbackConcurrency: 7,
    callbackAllow: ['127.0.0.1', '10.0.0.0/8', 'fd00::/8'],
    callbackProxy: 'http://user:secret@proxy.internal:3128',
    auth: new Set(['keys', 'jwt', 'authorizer']),
    jwtJwksUrl: 'https://issuer.internal/jwks.json',
    jwtIssuer: 'https://issuer.internal',
    jwtAudience: 'quartet',
    jwtTenantClaim: 'org',
    jwtScopeClaim: 'permissions',
    authorizerUrl: 'http://auth.internal:8080/check?for=quartet',
    corsOrigins: ['https://example.com', 'http://localhost:5173'],
    allowAnonymous: false,
    trustedProxies: ['10.0.0.0/8', '::1'],
    rateLimit: { count: 1_000, perMs: 120_000 },
    failedCredentials: { count: 100, perMs: 3_600_000 },
    maxStreams: 100,
    maxSockets: 10,
    socketMessages: { count: 1, perMs: 3_600_000 },
    maxSubscriptions: 1,
    maxBodyBytes: 2,
    maxResultBytes: 3,
    maxProgressBytes: 4,
    logLevel: 'silent',
  })
})

t.test('an empty variable counts as unset', async (t) => {
  const empty = Object.fromEntries(variables.map(({ name }) => [name, '']))
  t.same(readConfig({ ...empty, QUARTET_UNKNOWN: '' }), readConfig({}))
})

t.test('what is not its own is ignored', async (t) => {
  t.same(readConfig({ HOSTNAME: 'x', REDIS: 'x', quartet_roles: 'x' }), readConfig({}))
})

t.test('the configuration is frozen', async (t) => {
  const config = readConfig({ QUARTET_CALLBACK_ALLOW: '::1' })
  t.ok(Object.isFrozen(config))
  t.ok(Object.isFrozen(config.callbackAllow))
})

t.test('Redis may be reached over TCP, TLS or a unix socket', async (t) => {
  for (const url of [
    'redis://127.0.0.1:6379',
    'rediss://redis',
    'unix:///run/redis/redis.sock',
    'redis+cluster://a:7000,b:7001',
    'rediss+cluster://user:pw@a',
  ]) {
    t.equal(readConfig({ REDIS_URL: url }).redisUrl, url)
  }
})

t.test('letting everybody in and asking who they are are not both wanted', async (t) => {
  t.match(
    failure({ QUARTET_AUTH: 'keys', QUARTET_ALLOW_ANONYMOUS: '1' }).message,
    /^QUARTET_ALLOW_ANONYMOUS: /,
  )
})

t.test('a way of letting people in is set as a whole, or not at all', async (t) => {
  const jwt = {
    QUARTET_JWT_JWKS_URL: 'https://a/jwks',
    QUARTET_JWT_ISSUER: 'https://a',
    QUARTET_JWT_AUDIENCE: 'q',
  }
  const authorizer = { QUARTET_AUTHORIZER_URL: 'http://a/' }
  t.same(readConfig({ QUARTET_AUTH: 'jwt', ...jwt }).auth, new Set(['jwt']))
  for (const name of Object.keys(jwt)) {
    const { message } = failure({ QUARTET_AUTH: 'jwt', ...jwt, [name]: '' })
    t.equal(message, `${name}: Expected a value, as QUARTET_AUTH has jwt, got none`)
    const { message: unused } = failure({ QUARTET_AUTH: 'keys', ...jwt })
    t.equal(unused, 'QUARTET_AUTH: Expected jwt in it, as QUARTET_JWT_JWKS_URL is set')
  }
  t.match(failure({ QUARTET_AUTH: 'authorizer' }).message, /^QUARTET_AUTHORIZER_URL: Expected a value/)
  t.match(failure(authorizer).message, /^QUARTET_AUTH: Expected authorizer in it/)
})

t.test('where strangers’ credentials are judged is a URL that nobody else can answer for', async (t) => {
  const set = (url: string) => ({
    QUARTET_AUTH: 'jwt',
    QUARTET_JWT_ISSUER: 'i',
    QUARTET_JWT_AUDIENCE: 'a',
    QUARTET_JWT_JWKS_URL: url,
  })
  for (const url of [
    'https://issuer.internal/jwks',
    'http://127.0.0.1:1/',
    'http://[::1]:1/',
    'http://localhost:1/',
  ])
    t.equal(readConfig(set(url)).jwtJwksUrl, url)
  for (const url of [
    'http://issuer.internal/jwks',
    'issuer.internal',
    'file:///jwks',
    'https://user:hunter2@a/',
  ]) {
    const { message } = failure(set(url))
    t.match(message, /^QUARTET_JWT_JWKS_URL: Expected an https? /)
    t.notMatch(message, 'hunter2')
  }
  for (const url of ['auth.internal', 'ftp://auth', 'http://:hunter2@auth/']) {
    const { message } = failure({ QUARTET_AUTH: 'authorizer', QUARTET_AUTHORIZER_URL: url })
    t.match(message, /^QUARTET_AUTHORIZER_URL: Expected an http or https URL/)
    t.notMatch(message, 'hunter2')
  }
})

t.test('loopback addresses need no API keys', async (t) => {
  for (const host of ['localhost', '127.0.0.1', '127.1.2.3', '::1', '::ffff:127.0.0.1']) {
    t.equal(readConfig({ HOST: host }).host, host)
  }
})

t.test('any other address is refused while anyone may submit', async (t) => {
  for (const host of ['0.0.0.0', '::', '192.168.1.1', 'gateway.internal', '127.0.0.1.example.com']) {
    t.throws(
      () => readConfig({ HOST: host }),
      new ConfigError(
        `HOST: Expected a loopback address while everybody is let in, got ${host}; set QUARTET_AUTH=keys, ` +
          'or QUARTET_ALLOW_ANONYMOUS=1 if that is what you want',
      ),
    )
    t.equal(readConfig({ HOST: host, QUARTET_AUTH: 'keys' }).host, host)
    t.equal(readConfig({ HOST: host, QUARTET_ALLOW_ANONYMOUS: '1' }).host, host)
    t.equal(readConfig({ HOST: host, QUARTET_ROLES: 'workers' }).host, host, 'nothing listens')
  }
})

t.test('the message names the variable, what was expected and what was found', async (t) => {
  const roleNames = 'http, collect, callbacks or workers'
  const messages: readonly [NodeJS.ProcessEnv, string][] = [
    [{ PORT: 'abc' }, 'PORT: Expected an integer from 0 to 65535, got "abc"'],
    [{ PORT: '65536' }, 'PORT: Expected an integer from 0 to 65535, got "65536"'],
    [{ PORT: '-1' }, 'PORT: Expected an integer from 0 to 65535, got "-1"'],
    [{ PORT: '1e3' }, 'PORT: Expected an integer from 0 to 65535, got "1e3"'],
    [{ QUARTET_ROLES: 'http,worker' }, `QUARTET_ROLES: Expected ${roleNames}, got "worker"`],
    [{ QUARTET_ROLES: 'http,' }, `QUARTET_ROLES: Expected ${roleNames}, got ""`],
    [{ QUARTET_ROLES: ' ' }, `QUARTET_ROLES: Expected ${roleNames}, got ""`],
    [{ QUARTET_BULLMQ_PREFIX: 'a b' }, 'QUARTET_BULLMQ_PREFIX: Expected a prefix without spaces, got "a b"'],
    [{ QUARTET_AUTH: 'key' }, 'QUARTET_AUTH: Expected keys, jwt or authorizer, got "key"'],
    [{ QUARTET_ALLOW_ANONYMOUS: 'yes' }, 'QUARTET_ALLOW_ANONYMOUS: Expected 1, true, 0 or false, got "yes"'],
    [
      { LOG_LEVEL: 'loud' },
      'LOG_LEVEL: Expected fatal, error, warn, info, debug, trace or silent, got "loud"',
    ],
  ]
  for (const [env, message] of messages) t.throws(() => readConfig(env), new ConfigError(message))
})

t.test('a callback address must be an IP or a CIDR', async (t) => {
  for (const text of ['internal', '10.0.0.0/33', '10.0/8', '10.0.0.1/x', '127.1', '127.0.0.1,', '1/2/3']) {
    t.match(failure({ QUARTET_CALLBACK_ALLOW: text }).message, /^QUARTET_CALLBACK_ALLOW: Expected IP addr/)
  }
})

t.test('an origin is a scheme, a host and a port, and nothing else', async (t) => {
  for (const text of [
    '*',
    'null',
    'example.com',
    'https://example.com/',
    'https://*.example.com',
    'https://Example.com',
    'ftp://a',
    'https://a:443',
    'https://a,',
  ])
    t.match(failure({ QUARTET_CORS_ORIGINS: text }).message, /^QUARTET_CORS_ORIGINS: Expected origins/)
})

t.test('in a cluster the prefix has braces, which keep the keys of a queue on one node', async (t) => {
  const REDIS_URL = 'redis+cluster://a:7000,b:7001'
  t.equal(readConfig({ REDIS_URL }).bullmqPrefix, '{bull}')
  t.equal(readConfig({ REDIS_URL, QUARTET_BULLMQ_PREFIX: 'my{jobs}' }).bullmqPrefix, 'my{jobs}')
  t.match(
    failure({ REDIS_URL, QUARTET_BULLMQ_PREFIX: 'jobs' }).message,
    /^QUARTET_BULLMQ_PREFIX: Expected braces .*, got "jobs"$/,
  )
})

t.test('a limit is a number from 1, or a number in a time', async (t) => {
  for (const text of ['0', '-1', '1.5', '1e3', '1000000000', 'none', '1/1s'])
    t.match(
      failure({ QUARTET_MAX_BODY_BYTES: text }).message,
      `QUARTET_MAX_BODY_BYTES: Expected an integer from 1 to 999999999, got "${text}"`,
    )
  for (const text of ['10', '0/1s', '10/0s', '10/s', '10/1', '10/500ms', '10/1d', '10 / 1s', '1e3/1s'])
    t.match(
      failure({ QUARTET_RATE_LIMIT: text }).message,
      `QUARTET_RATE_LIMIT: Expected so many in so long, e.g. 1000/60s, got "${text}"`,
    )
})

t.test('a number of replicas is a small integer', async (t) => {
  for (const text of ['-1', '1.5', 'all', '100']) {
    t.match(failure({ QUARTET_WAIT_REPLICAS: text }).message, /^QUARTET_WAIT_REPLICAS: Expected an integer/)
  }
})

t.test('a wrong Redis URL is refused without showing its password', async (t) => {
  const urls = [
    'http://:hunter2@redis',
    'default:hunter2@redis',
    'hunter2',
    'unix://hunter2',
    'redis:///hunter2',
    'redis+cluster://:hunter2',
    'redis+cluster://:hunter2@',
    'redis+cluster://a,hunter2 b',
    'redis+cluster://:hunter2@a:7000,b/1',
  ]
  for (const url of urls) {
    const error = failure({ REDIS_URL: url })
    t.match(error.message, /^REDIS_URL: Expected redis:\/\/host, .* or unix:\/\/\/path, got /)
    t.notMatch(error.message, 'hunter2')
  }
})

t.test('a bad webhook secret stops the start and is not shown', async (t) => {
  const error = failure({ QUARTET_WEBHOOK_SECRET: `${generateSecret()},hunter2` })
  t.match(error.message, /^QUARTET_WEBHOOK_SECRET: Expected .* as key 2, got another prefix$/)
})

t.test('a callback proxy is an http or https URL, and its password is not shown', async (t) => {
  const QUARTET_CALLBACK_PROXY = 'https://:hunter2@[::1]'
  t.equal(readConfig({ QUARTET_CALLBACK_PROXY }).callbackProxy, QUARTET_CALLBACK_PROXY)
  for (const text of [
    'hunter2',
    'user:hunter2@proxy',
    'socks5://:hunter2@proxy',
    'http://:hunter2@proxy/hunter2',
  ]) {
    const { message } = failure({ QUARTET_CALLBACK_PROXY: text })
    t.match(message, /^QUARTET_CALLBACK_PROXY: Expected http:\/\/user:password@host:port, or https, got /)
    t.notMatch(message, 'hunter2')
  }
})

t.test('an unknown QUARTET_ variable is taken for a typo', async (t) => {
  const { message } = failure({ QUARTET_ROLE: 'http' })
  t.match(message, /^QUARTET_ROLE: Expected one of QUARTET_CONFIG, .*, got an unknown variable$/)
  for (const { name } of variables) if (name.startsWith('QUARTET_')) t.match(message, name)
})

t.test('every variable is documented with the default that holds when it is unset', async (t) => {
  const documented = Object.fromEntries(variables.map((variable) => [variable.name, variable.default]))
  t.same(readConfig(documented), readConfig({}))
  for (const { name, meaning } of variables) t.ok(meaning, name)
})

function failure(env: NodeJS.ProcessEnv): ConfigError {
  try {
    readConfig(env)
  } catch (error) {
    if (error instanceof ConfigError) return error
    throw error
  }
  throw new Error(`Expected a ConfigError, got a configuration from ${JSON.stringify(env)}`)
}
