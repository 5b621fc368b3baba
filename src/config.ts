import { isIP } from 'node:net'
import ipaddr from 'ipaddr.js'
import { parseCallbackProxy } from './deliver/callback-proxy.ts'
import { parseSchedule } from './deliver/schedule.ts'
import { parseSigningKeys } from './deliver/signature.ts'
import { parseAddress } from './store/redis/address.ts'

/** The parts of the gateway that one process may run, each on its own or all together. */
export const roles = ['http', 'collect', 'callbacks', 'workers'] as const

export type Role = (typeof roles)[number]

/** From pino, with `silent` for none. */
const logLevels = ['fatal', 'error', 'warn', 'info', 'debug', 'trace', 'silent'] as const

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
    meaning:
      'Address that the HTTP server listens on; loopback only, unless `QUARTET_ALLOW_ANONYMOUS` is set',
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
  allowAnonymous: {
    name: 'QUARTET_ALLOW_ANONYMOUS',
    default: '0',
    meaning: '`1` serves whoever can reach `HOST`, on any address, without API keys',
    read: readBoolean,
  },
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
  const entries = Object.entries(settings).map(([field, { name, default: fallback, read }]) => {
    try {
      return [field, read(env[name] || fallback)]
    } catch (error) {
      throw new ConfigError(`${name}: ${(error as Error).message}`, { cause: error })
    }
  })
  const config = Object.freeze(withHashTag(Object.fromEntries(entries) as Config, env))
  refuseOpenDoor(config)
  return config
}

function refuseUnknown(env: NodeJS.ProcessEnv): void {
  const known = variables.map(({ name }) => name).filter((name) => name.startsWith('QUARTET_'))
  for (const [name, text] of Object.entries(env)) {
    // QUARTET_URL is the example clients' own.
    if (!name.startsWith('QUARTET_') || !text || [...known, 'QUARTET_URL'].includes(name)) continue
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

function refuseOpenDoor({ host, roles, allowAnonymous }: Config): void {
  if (allowAnonymous || !roles.has('http') || isLoopback(host)) return
  throw new ConfigError(
    `HOST: Expected a loopback address while no API keys are configured, got ${host}; ` +
      'QUARTET_ALLOW_ANONYMOUS=1 lifts this',
  )
}

function isLoopback(host: string): boolean {
  if (host === 'localhost') return true
  return isIP(host) !== 0 && ipaddr.process(host).range() === 'loopback'
}

function readPort(text: string): number {
  const port = /^\d+$/.test(text) ? Number(text) : NaN
  if (port >= 0 && port <= 65_535) return port
  throw new Error(`Expected an integer from 0 to 65535, got "${text}"`)
}

function readRedisUrl(text: string): string | null {
  if (text === '') return null
  parseAddress(text)
  return text
}

function readRoles(text: string): ReadonlySet<Role> {
  return new Set(readList(text).map((role) => oneOf(roles, role)))
}

function readCount(text: string): number {
  if (/^\d{1,2}$/.test(text)) return Number(text)
  throw new Error(`Expected an integer from 0 to 99, got "${text}"`)
}

function readConcurrency(text: string): number {
  if (/^[1-9]\d{0,3}$/.test(text)) return Number(text)
  throw new Error(`Expected an integer from 1 to 9999, got "${text}"`)
}

function readPrefix(text: string): string {
  if (/^\S+$/.test(text)) return text
  throw new Error(`Expected a prefix without spaces, got "${text}"`)
}

function readSecrets(text: string): string | null {
  if (text === '') return null
  parseSigningKeys(text)
  return text
}

function readCidrs(text: string): readonly string[] {
  const cidrs = text === '' ? [] : readList(text)
  for (const cidr of cidrs) {
    const [address = '', ...bits] = cidr.split('/')
    if (isIP(address) !== 0 && (bits.length === 0 || ipaddr.isValidCIDR(cidr))) continue
    throw new Error(`Expected IP addresses and CIDRs, e.g. 10.0.0.0/8, got "${cidr}"`)
  }
  return Object.freeze(cidrs)
}

function readProxy(text: string): string | null {
  if (text === '') return null
  parseCallbackProxy(text)
  return text
}

function readBoolean(text: string): boolean {
  if (text === '1' || text === 'true') return true
  if (text === '0' || text === 'false') return false
  throw new Error(`Expected 1, true, 0 or false, got "${text}"`)
}

function readLogLevel(text: string): (typeof logLevels)[number] {
  return oneOf(logLevels, text)
}

function readList(text: string): string[] {
  return text.split(',').map((item) => item.trim())
}

function oneOf<T extends string>(known: readonly T[], text: string): T {
  const found = known.find((candidate) => candidate === text)
  if (found !== undefined) return found
  throw new Error(`Expected ${known.slice(0, -1).join(', ')} or ${known.at(-1)}, got "${text}"`)
}
