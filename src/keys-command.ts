import { setTimeout as delay } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { createApiKey, idOfKey } from './access/api-key.ts'
import { isScope, isTenant, scopes, type Scope } from './access/identity.ts'
import { readStoreConfig } from './config.ts'
import type { ApiKey, ApiKeys } from './store/api-keys.ts'
import { joinPrivateRedis, PRIVATE_DIR } from './store/private-redis.ts'
import { createConnect } from './store/redis/connect.ts'
import { createRedisStore } from './store/redis/redis-store.ts'
import { createReplicate } from './store/redis/replicate.ts'

const USAGE = `Usage:
  quartet keys create --tenant <name> --scope <scope>… [--type <type>…] [--expires <when>] [--name <text>]
  quartet keys list [--tenant <name>] [--json]
  quartet keys revoke <id>

Scopes: ${scopes.join(', ')}. With --type only jobs of those types may be submitted.
<when> is a time such as 2031-01-31T12:00:00Z, or hours or days from now: 12h, 90d.
The store is that of the gateways: REDIS_URL, or else the private Redis of this folder.`

const CONNECT_MS = 3_000

/** A command cannot be carried out. The message is for whoever gave it. */
export class CommandError extends Error {
  override readonly name = 'CommandError'
}

type Command = (keys: ApiKeys) => Promise<void>

/**
 * `quartet keys create | list | revoke`: a new key goes to standard output, alone, and what is to be said of it to
 * standard error.
 *
 * @throws CommandError, ConfigError
 */
export async function runKeys([action, ...args]: readonly string[]): Promise<void> {
  const command = read(action, args)
  const { redisUrl, waitReplicas } = readStoreConfig()
  const privateRedis = redisUrl === null ? await joinPrivateRedis({ dir: PRIVATE_DIR }) : null
  let trouble = 'nothing'
  const connect = createConnect(redisUrl ?? privateRedis?.url ?? '', (error) => (trouble = String(error)))
  const redis = connect('command')
  const store = createRedisStore(redis, connect, { replicate: createReplicate(redis, waitReplicas) })
  try {
    await Promise.race([
      new Promise((resolve) => redis.once('ready', resolve)),
      delay(CONNECT_MS, undefined, { ref: false }),
    ])
    if (redis.status !== 'ready') throw new CommandError(`Expected Redis to answer, got ${trouble}`)
    await command(store.apiKeys)
  } finally {
    await store.close()
    redis.disconnect()
    await privateRedis?.stop()
  }
}

/** Everything is checked before the store is asked for. */
function read(action: string | undefined, args: readonly string[]): Command {
  try {
    if (action === 'create') return create(args)
    if (action === 'list') return list(args)
    if (action === 'revoke') return revoke(args)
  } catch (error) {
    throw new CommandError(`${(error as Error).message}\n\n${USAGE}`, { cause: error })
  }
  throw new CommandError(`Expected create, list or revoke, got ${JSON.stringify(action ?? '')}\n\n${USAGE}`)
}

function create(args: readonly string[]): Command {
  const { values } = parseArgs({
    args: [...args],
    options: {
      tenant: { type: 'string' },
      scope: { type: 'string', multiple: true },
      type: { type: 'string', multiple: true },
      expires: { type: 'string' },
      name: { type: 'string' },
    },
  })
  const { tenant, scope = [], type: types = null, expires, name = null } = values
  if (!isTenant(tenant)) {
    throw new Error(
      `Expected --tenant of up to 64 letters, digits, ".", "_", "-" and "@", got "${tenant ?? ''}"`,
    )
  }
  const wanted = scope.map(toScope)
  if (wanted.length === 0) throw new Error(`Expected --scope, one or more of ${scopes.join(', ')}`)
  const createdAt = Date.now()
  const expiresAt = expires === undefined ? null : toTime(expires, createdAt)

  return async (keys) => {
    const given = { tenant, scopes: wanted, types, name, createdAt, expiresAt }
    const { id, key } = await createApiKey(keys, given)
    console.error(
      `Key ${id} of tenant ${tenant}, for ${wanted.join(', ')}. It is shown this once; gateways ask for it when they ` +
        'have QUARTET_AUTH=keys.',
    )
    console.log(key)
  }
}

function list(args: readonly string[]): Command {
  const options = { tenant: { type: 'string' }, json: { type: 'boolean' } } as const
  const { tenant, json = false } = parseArgs({ args: [...args], options }).values
  return async (keys) => {
    const found = (await keys.list()).filter((key) => key.tenant === (tenant ?? key.tenant))
    for (const key of found) console.log(json ? JSON.stringify(show(key)) : line(key))
  }
}

function revoke(args: readonly string[]): Command {
  const { positionals } = parseArgs({ args: [...args], options: {}, allowPositionals: true })
  const [given = ''] = positionals
  const id = idOfKey(given) ?? given
  if (positionals.length !== 1 || !/^[0-9a-f]{16}$/.test(id)) throw new Error('Expected the id of one key')
  return async (keys) => {
    if (!(await keys.revoke(id)))
      throw new CommandError(`Expected the id of a key, got ${id}, of which there is none`)
    console.error(`Key ${id} is revoked.`)
  }
}

function toScope(text: string): Scope {
  if (isScope(text)) return text
  throw new Error(`Expected --scope to be one of ${scopes.join(', ')}, got "${text}"`)
}

/** @returns milliseconds since the epoch */
function toTime(text: string, now: number): number {
  const [, count = '', unit = ''] = /^(\d{1,5})([hd])$/.exec(text) ?? []
  if (count !== '') return now + Number(count) * (unit === 'h' ? 3_600_000 : 86_400_000)
  const at = /^\d{4}-\d\d-\d\dT/.test(text) ? Date.parse(text) : NaN
  if (at > now) return at
  throw new Error(`Expected --expires to be a time to come, or hours or days, e.g. 12h or 90d, got "${text}"`)
}

function show({ id, tenant, scopes, types, name, createdAt, expiresAt }: ApiKey): object {
  const time = (ms: number | null) => (ms === null ? null : new Date(ms).toISOString())
  return { id, tenant, scopes, types, name, created_at: time(createdAt), expires_at: time(expiresAt) }
}

function line({ id, tenant, scopes, types, name, expiresAt }: ApiKey): string {
  return [
    id,
    tenant,
    scopes.join(','),
    types ? `types ${types.join(',')}` : 'all types',
    expiresAt === null ? 'never expires' : `expires ${new Date(expiresAt).toISOString()}`,
    name ?? '',
  ].join('\t')
}
