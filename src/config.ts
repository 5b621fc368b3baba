import { limitSettings } from './config-limits.ts'
import {
  isLoopback,
  judges,
  logLevels,
  readAuth,
  readBoolean,
  readCidrs,
  readConcurrency,
  readCount,
  readHttpsUrl,
  readHttpUrl,
  readLogLevel,
  readOrigins,
  readPort,
  readPrefix,
  readProxy,
  readRedisUrl,
  readRoles,
  readSecrets,
  roles,
  type Judge,
} from './config-values.ts'
import { parseSchedule } from './deliver/schedule.ts'
import { parseAddress } from './store/redis/address.ts'

/** Every setting: its variable, what it is when unset, what it means, and how its text becomes a value. */
const settings = {
  port: {
    name: 'PORT',
    default: '3000',
    meaning: 'TCP port of the HTTP server; 0 takes a free one',
    read: readPort,
  },
  host: {
    name: 'HOST',
    default: '127.0.0.1',
    meaning: 'Address that the HTTP server listens on; loopback only, unless `QUARTET_AUTH` is set',
    read: (text: string) => text,
  },
  redisUrl: {
    name: 'REDIS_URL',
    default: '',
    meaning:
      'Redis or Valkey to use: `redis://`, `rediss://`, `unix:///path/to/socket`, or a cluster as ' +
      '`redis+cluster://host:port,host:port`; without it a private one is run',
    read: readRedisUrl,
  },
  catalogPath: {
    name: 'QUARTET_CONFIG',
    default: 'quartet.config.json',
    meaning: 'File with the job types',
    read: (text: string) => text,
  },
  roles: {
    name: 'QUARTET_ROLES',
    default: roles.join(','),
    meaning: 'What this process does, comma-separated',
    read: readRoles,
  },
  bullmqPrefix: {
    name: 'QUARTET_BULLMQ_PREFIX',
    default: 'bull',
    meaning: 'Prefix of the BullMQ keys; workers must use the same. In a cluster `{bull}`',
    read: readPrefix,
  },
  waitReplicas: {
    name: 'QUARTET_WAIT_REPLICAS',
    default: '0',
    meaning: 'Replicas that must confirm a job before its 202, so that a failover of Redis loses none',
    read: readCount,
  },
  webhookSecrets: {
    name: 'QUARTET_WEBHOOK_SECRET',
    default: '',
    meaning:
      'Keys that webhooks are signed with, `whsec_<base64>` or (Ed25519) `whsk_<base64>`, comma-separated while one is ' +
      'rotated; `<tenant>:` before one makes it that tenant’s own',
    read: readSecrets,
  },
  callbackSchedule: {
    name: 'QUARTET_CALLBACK_SCHEDULE',
    default: '5s,30s,2m,10m,1h,3h,8h,24h',
    meaning:
      'Waits between the tries of a webhook, each ± 20 %; after the last try the event is a dead letter',
    read: parseSchedule,
  },
  callbackConcurrency: {
    name: 'QUARTET_CALLBACK_CONCURRENCY',
    default: '50',
    meaning: 'Tries of webhooks at a time to one origin, over all nodes',
    read: readConcurrency,
  },
  callbackAllow: {
    name: 'QUARTET_CALLBACK_ALLOW',
    default: '',
    meaning: 'Addresses that webhooks may reach although they are not public: IPs and CIDRs, comma-separated',
    read: readCidrs,
  },
  callbackProxy: {
    name: 'QUARTET_CALLBACK_PROXY',
    default: '',
    meaning:
      'Forward proxy that webhooks go through, `http://user:password@host:port` or `https://…`. It must refuse ' +
      'private addresses itself: it resolves the names, also those that do not resolve here',
    read: readProxy,
  },
  auth: {
    name: 'QUARTET_AUTH',
    default: '',
    meaning:
      'Who is let in: holders of `keys`, of a `jwt`, or whom the `authorizer` lets in; comma-separated. ' +
      'Without it everybody who can reach `HOST`',
    read: readAuth,
  },
  jwtJwksUrl: {
    name: 'QUARTET_JWT_JWKS_URL',
    default: '',
    meaning: 'With `jwt`: where your issuer shows its public keys (JWKS)',
    read: readHttpsUrl,
  },
  jwtIssuer: {
    name: 'QUARTET_JWT_ISSUER',
    default: '',
    meaning: 'With `jwt`: what `iss` must be',
    read: (text: string) => text,
  },
  jwtAudience: {
    name: 'QUARTET_JWT_AUDIENCE',
    default: '',
    meaning: 'With `jwt`: what `aud` must be, or have in it',
    read: (text: string) => text,
  },
  jwtTenantClaim: {
    name: 'QUARTET_JWT_TENANT_CLAIM',
    default: 'tenant',
    meaning: 'With `jwt`: the claim that names the tenant',
    read: (text: string) => text,
  },
  jwtScopeClaim: {
    name: 'QUARTET_JWT_SCOPE_CLAIM',
    default: 'scope',
    meaning: 'With `jwt`: the claim with the scopes, as text with spaces or as a list',
    read: (text: string) => text,
  },
  authorizerUrl: {
    name: 'QUARTET_AUTHORIZER_URL',
    default: '',
    meaning: 'With `authorizer`: where your own service is asked who somebody is',
    read: readHttpUrl,
  },
  corsOrigins: {
    name: 'QUARTET_CORS_ORIGINS',
    default: '',
    meaning:
      'Pages that may read answers and open sockets besides those of the gateway’s own host: `https://host:port`, comma-separated',
    read: readOrigins,
  },
  trustedProxies: {
    name: 'QUARTET_TRUSTED_PROXIES',
    default: '',
    meaning:
      'Proxies in front whose `X-Forwarded-For` says whom limits by address count: IPs and CIDRs, comma-separated',
    read: readCidrs,
  },
  allowAnonymous: {
    name: 'QUARTET_ALLOW_ANONYMOUS',
    default: '0',
    meaning: '`1` serves everybody who can reach `HOST`, on any address, without `QUARTET_AUTH`',
    read: readBoolean,
  },
  ...limitSettings,
  logLevel: {
    name: 'LOG_LEVEL',
    default: 'info',
    meaning: `One of ${logLevels.map((level) => `\`${level}\``).join(', ')}`,
    read: readLogLevel,
  },
} as const

/** What the environment says, checked and frozen. Each field is described in {@link variables}. */
export type Config = {
  readonly [Field in keyof typeof settings]: ReturnType<(typeof settings)[Field]['read']>
}

export { roles, type Role } from './config-values.ts'

/** Every environment variable that is read. A `default` of `''` means none. */
export const variables: readonly { name: string; default: string; meaning: string }[] = Object.values(
  settings,
).map(({ name, default: fallback, meaning }) => ({ name, default: fallback, meaning }))

/** The environment is not usable. The message is one line that begins with the variable's name. */
export class ConfigError extends Error {
  override readonly name = 'ConfigError'
}

/**
 * Reads the configuration. Nothing else reads `process.env`. An empty variable counts as unset.
 *
 * @throws ConfigError for the first variable that is wrong, and for an unknown `QUARTET_*` one, a likely typo
 */
export function readConfig(env: NodeJS.ProcessEnv = process.env): Config {
  refuseUnknown(env)
  const fields = Object.keys(settings) as (keyof Config)[]
  const entries = fields.map((field) => [field, readOne(field, env)])
  const config = Object.freeze(withHashTag(Object.fromEntries(entries) as Config, env))
  refuseHalfSet(config)
  refuseOpenDoor(config)
  return config
}

/**
 * Reads the settings of a command that needs the store and nothing else.
 *
 * @throws ConfigError
 */
export function readStoreConfig(
  env: NodeJS.ProcessEnv = process.env,
): Pick<Config, 'redisUrl' | 'waitReplicas'> {
  return { redisUrl: readOne('redisUrl', env), waitReplicas: readOne('waitReplicas', env) }
}

function readOne<Field extends keyof Config>(field: Field, env: NodeJS.ProcessEnv): Config[Field] {
  const { name, default: fallback, read } = settings[field]
  try {
    return read(env[name] || fallback) as Config[Field]
  } catch (error) {
    throw new ConfigError(`${name}: ${(error as Error).message}`, { cause: error })
  }
}

/** The example clients' own. */
const clientsOwn = ['QUARTET_URL', 'QUARTET_KEY']

function refuseUnknown(env: NodeJS.ProcessEnv): void {
  const known = variables.map(({ name }) => name).filter((name) => name.startsWith('QUARTET_'))
  for (const [name, text] of Object.entries(env)) {
    if (!name.startsWith('QUARTET_') || !text || [...known, ...clientsOwn].includes(name)) continue
    throw new ConfigError(`${name}: Expected one of ${known.join(', ')}, got an unknown variable`)
  }
}

/** In a cluster the keys of a queue must be on one node, which BullMQ leaves to braces in the prefix. */
function withHashTag(config: Config, env: NodeJS.ProcessEnv): Config {
  const isCluster = config.redisUrl !== null && parseAddress(config.redisUrl).kind === 'cluster'
  const { bullmqPrefix } = config
  if (!isCluster || /\{[^}]+\}/.test(bullmqPrefix)) return config
  const { name, default: fallback } = settings.bullmqPrefix
  if (!env[name]) return { ...config, bullmqPrefix: `{${fallback}}` }
  throw new ConfigError(
    `${name}: Expected braces around a part of it in a cluster, e.g. {bull}, got "${bullmqPrefix}"`,
  )
}

/** What a way of letting people in cannot be without. */
const needed = {
  keys: [],
  jwt: ['jwtJwksUrl', 'jwtIssuer', 'jwtAudience'],
  authorizer: ['authorizerUrl'],
} as const satisfies Record<Judge, readonly (keyof Config)[]>

/** Somebody who has set half of it believes that strangers are kept out. */
function refuseHalfSet(config: Config): void {
  for (const judge of judges) {
    for (const field of needed[judge]) {
      const { name } = settings[field]
      if (config.auth.has(judge) && config[field] === '')
        throw new ConfigError(`${name}: Expected a value, as QUARTET_AUTH has ${judge}, got none`)
      if (!config.auth.has(judge) && config[field] !== '')
        throw new ConfigError(`QUARTET_AUTH: Expected ${judge} in it, as ${name} is set`)
    }
  }
}

function refuseOpenDoor({ host, roles, auth, allowAnonymous }: Config): void {
  if (auth.size > 0 && allowAnonymous) {
    throw new ConfigError(
      `QUARTET_ALLOW_ANONYMOUS: Expected it unset with QUARTET_AUTH, which lets nobody in unknown`,
    )
  }
  if (auth.size > 0 || allowAnonymous || !roles.has('http') || isLoopback(host)) return
  throw new ConfigError(
    `HOST: Expected a loopback address while everybody is let in, got ${host}; set QUARTET_AUTH=keys, ` +
      'or QUARTET_ALLOW_ANONYMOUS=1 if that is what you want',
  )
}
