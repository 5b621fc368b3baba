import { mkdtemp, rm, stat } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { text } from 'node:stream/consumers'
import t, { type Test } from 'tap'
import { spawnProcess, startRedis } from './helper.ts'
import { openKeys } from './keys.ts'

const tsx = import.meta.resolve('tsx')
const redis = await startRedis(t)

/** Runs `quartet` with arguments. */
async function run(
  args: readonly string[],
  {
    env = { REDIS_URL: redis.url },
    cwd = process.cwd(),
  }: { env?: Record<string, string>; cwd?: string } = {},
) {
  const { PATH = '', HOME = '' } = process.env
  const variables = Object.entries({ PATH, HOME, ...env }).map(([name, value]) => `${name}=${value}`)
  const command = ['-i', ...variables, process.execPath, '--import', tsx, resolve('src/main.ts'), ...args]
  const child = spawn('env', command, { cwd, stdio: ['ignore', 'pipe', 'pipe'] })
  const closed = once(child, 'close') as Promise<[number | null]>
  const [stdout, stderr, [code]] = await Promise.all([text(child.stdout), text(child.stderr), closed])
  return { code, stdout, stderr }
}

t.test('a key is created, shown once, listed without its secret, and revoked', async (t) => {
  const keys = await openKeys(t, redis)
  const args = ['--tenant', 'acme', '--scope', 'jobs:write', '--scope', 'jobs:read']
  const more = ['--type', 'echo', '--expires', '90d', '--name', 'the web shop']
  const before = Date.now()
  const { code, stdout, stderr } = await run(['keys', 'create', ...args, ...more])
  t.equal(code, 0)
  t.match(stdout, /^qk_[0-9a-f]{16}_[\w-]{43}\n$/, 'the key alone, for KEY=$(…)')
  const key = stdout.trim()
  const id = key.slice(3, 19)
  t.match(stderr, `Key ${id} of tenant acme, for jobs:write, jobs:read.`)
  t.notMatch(stderr, key)

  const listed = await run(['keys', 'list', '--json', '--tenant', 'acme'])
  const { created_at, expires_at, ...shown } = JSON.parse(listed.stdout) as Record<string, string>
  const scopes = ['jobs:write', 'jobs:read']
  t.strictSame(shown, { id, tenant: 'acme', scopes, types: ['echo'], name: 'the web shop' })
  t.equal(Date.parse(expires_at ?? '') - Date.parse(created_at ?? ''), 90 * 86_400_000)
  t.ok(Date.parse(created_at ?? '') >= before)
  const lines = (await run(['keys', 'list'])).stdout
  t.match(lines, `${id}\tacme\tjobs:write,jobs:read\ttypes echo\texpires ${expires_at}\tthe web shop\n`)
  t.equal((await run(['keys', 'list', '--tenant', 'other'])).stdout, '')

  const client = redis.connect()
  for (const value of Object.values(await client.hgetall('{quartet}:api-keys')))
    t.notMatch(value, key.slice(20), 'the secret is not kept')

  const revoked = await run(['keys', 'revoke', id])
  t.same(revoked, { code: 0, stdout: '', stderr: `Key ${id} is revoked.\n` })
  t.equal((await keys.find(id)).key, null)
  const again = await run(['keys', 'revoke', id])
  t.equal(again.code, 1)
  t.match(again.stderr, `Expected the id of a key, got ${id}, of which there is none`)
})

t.test('a key that leaked can be revoked as it is', async (t) => {
  const { stdout } = await run(['keys', 'create', '--tenant', 't', '--scope', 'admin'])
  const { code, stderr } = await run(['keys', 'revoke', stdout.trim()])
  t.equal(code, 0)
  t.notMatch(stderr, stdout.trim().slice(20))
})

t.test('what is not understood is said, with what would be', async (t) => {
  const created = ['keys', 'create', '--tenant', 'a']
  for (const [args, message] of [
    [['key'], /^Expected no command, start or keys, got "key"/],
    [['keys'], /^Expected create, list or revoke, got ""/],
    [['keys', 'delete'], /^Expected create, list or revoke, got "delete"/],
    [['keys', 'create'], /^Expected --tenant of up to 64 letters/],
    [['keys', 'create', '--tenant', 'a b', '--scope', 'admin'], /^Expected --tenant of up to 64 letters/],
    [created, /^Expected --scope, one or more of jobs:write, jobs:read, jobs:cancel, admin/],
    [[...created, '--scope', 'jobs:all'], /^Expected --scope to be one of .*, got "jobs:all"/],
    [[...created, '--scope', 'admin', '--expires', 'soon'], /^Expected --expires to be a time to come/],
    [[...created, '--scope', 'admin', '--expires', '2020-01-01T00:00:00Z'], /^Expected --expires to be/],
    [[...created, '--scope', 'admin', '--types', 'x'], /^Unknown option '--types'/],
    [['keys', 'revoke'], /^Expected the id of one key/],
    [['keys', 'revoke', 'x'], /^Expected the id of one key/],
  ] as const) {
    const { code, stdout, stderr } = await run(args)
    t.same({ code, stdout }, { code: 1, stdout: '' }, args.join(' '))
    t.match(stderr, message)
    t.match(stderr, /\n\nUsage:/)
    t.notMatch(stderr, / {4}at /, 'and no stack')
  }
  t.match(await run(['--help']), { code: 0, stdout: /^Usage:\n.*quartet keys/s })
})

t.test('without the Redis it was told of, it says so', async (t) => {
  const { code, stderr } = await run(['keys', 'list'], { env: { REDIS_URL: 'redis://:hunter2@127.0.0.1:1' } })
  t.equal(code, 1)
  t.match(stderr, /^Expected Redis to answer, got .*ECONNREFUSED/)
  t.notMatch(stderr, 'hunter2')
  t.match((await run(['keys', 'list'], { env: { REDIS_URL: 'x' } })).stderr, /^REDIS_URL: Expected /)
})

t.test('without REDIS_URL it is the private Redis, whether its gateway runs or not', async (t) => {
  const cwd = await newFolder(t)
  const create = () => run(['keys', 'create', '--tenant', 'acme', '--scope', 'jobs:read'], { env: {}, cwd })
  const before = await create()
  t.equal(before.code, 0)
  await t.rejects(stat(join(cwd, '.quartet/redis.json')), 'it has ended with the command')

  const gateway = spawnProcess(t, ['node', '--import', tsx, resolve('src/main.ts')], {
    cwd,
    env: { PORT: '0', QUARTET_AUTH: 'keys', QUARTET_CONFIG: resolve('quartet.config.json') },
  })
  const [, url = ''] = await gateway.waitForLine(/listens on (http:\S+)/)
  const meanwhile = await create()
  t.equal(meanwhile.code, 0)
  for (const { stdout } of [before, meanwhile]) {
    const response = await fetch(`${url}/jobs`, { headers: { authorization: `Bearer ${stdout.trim()}` } })
    t.equal(response.status, 200)
  }
  t.equal((await fetch(`${url}/jobs`)).status, 401)
  gateway.child.kill('SIGTERM')
  t.same(await gateway.exited, { code: 0, signal: null })
})

async function newFolder(t: Test): Promise<string> {
  const cwd = await mkdtemp(join(tmpdir(), 'quartet-keys-'))
  t.teardown(() => rm(cwd, { recursive: true, force: true }))
  return cwd
}
