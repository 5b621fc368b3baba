import { isIP } from 'node:net'
import ipaddr from 'ipaddr.js'
import { parseCallbackProxy } from './deliver/callback-proxy.ts'
import { parseSigningKeys } from './deliver/signature.ts'
import { parseAddress } from './store/redis/address.ts'

/*
 * How the text of a setting becomes its value. All throw an Error "Expected X, got Y", and show nothing that may be a
 * secret.
 */

/** The parts of the gateway that one process may run, each on its own or all together. */
export const roles = ['http', 'collect', 'callbacks', 'workers'] as const

export type Role = (typeof roles)[number]

/** From pino, with `silent` for none. */
export const logLevels = ['fatal', 'error', 'warn', 'info', 'debug', 'trace', 'silent'] as const

/** Who can say who somebody is: our own API keys, the user's own issuer of JWTs, the user's own service. */
export const judges = ['keys', 'jwt', 'authorizer'] as const

export type Judge = (typeof judges)[number]

export function readAuth(text: string): ReadonlySet<Judge> {
  return new Set(text === '' ? [] : readList(text).map((judge) => oneOf(judges, judge)))
}

export function readPort(text: string): number {
  const port = /^\d+$/.test(text) ? Number(text) : NaN
  if (port >= 0 && port <= 65_535) return port
  throw new Error(`Expected an integer from 0 to 65535, got "${text}"`)
}

export function readRedisUrl(text: string): string | null {
  if (text === '') return null
  parseAddress(text)
  return text
}

export function readRoles(text: string): ReadonlySet<Role> {
  return new Set(readList(text).map((role) => oneOf(roles, role)))
}

export function readCount(text: string): number {
  if (/^\d{1,2}$/.test(text)) return Number(text)
  throw new Error(`Expected an integer from 0 to 99, got "${text}"`)
}

export function readConcurrency(text: string): number {
  if (/^[1-9]\d{0,3}$/.test(text)) return Number(text)
  throw new Error(`Expected an integer from 1 to 9999, got "${text}"`)
}

export function readPrefix(text: string): string {
  if (/^\S+$/.test(text)) return text
  throw new Error(`Expected a prefix without spaces, got "${text}"`)
}

export function readSecrets(text: string): string | null {
  if (text === '') return null
  parseSigningKeys(text)
  return text
}

export function readCidrs(text: string): readonly string[] {
  const cidrs = text === '' ? [] : readList(text)
  for (const cidr of cidrs) {
    const [address = '', ...bits] = cidr.split('/')
    if (isIP(address) !== 0 && (bits.length === 0 || ipaddr.isValidCIDR(cidr))) continue
    throw new Error(`Expected IP addresses and CIDRs, e.g. 10.0.0.0/8, got "${cidr}"`)
  }
  return Object.freeze(cidrs)
}

export function readProxy(text: string): string | null {
  if (text === '') return null
  parseCallbackProxy(text)
  return text
}

/** @returns '' for none */
export function readHttpUrl(text: string): string {
  if (text === '') return ''
  const url = URL.canParse(text) ? new URL(text) : null
  if (url && /^https?:$/.test(url.protocol) && url.username === '' && url.password === '') return url.href
  throw new Error('Expected an http or https URL without user name and password, got something else')
}

/** Keys that come over plain http may be anybody's, but on this machine. @returns '' for none */
export function readHttpsUrl(text: string): string {
  const href = readHttpUrl(text)
  if (href === '' || href.startsWith('https:') || isLoopback(new URL(href).hostname.replaceAll(/[[\]]/g, '')))
    return href
  throw new Error('Expected an https URL, or one of this machine, got plain http')
}

export function readOrigins(text: string): readonly string[] {
  const origins = text === '' ? [] : readList(text)
  for (const origin of origins) {
    if (/^https?:[^*]+$/.test(origin) && URL.canParse(origin) && new URL(origin).origin === origin) continue
    throw new Error(`Expected origins, e.g. https://example.com, got "${origin}"`)
  }
  return Object.freeze(origins)
}

export function readBoolean(text: string): boolean {
  if (text === '1' || text === 'true') return true
  if (text === '0' || text === 'false') return false
  throw new Error(`Expected 1, true, 0 or false, got "${text}"`)
}

export function readLogLevel(text: string): (typeof logLevels)[number] {
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

/** Whether nobody but this machine reaches an address. */
export function isLoopback(host: string): boolean {
  if (host === 'localhost') return true
  return isIP(host) !== 0 && ipaddr.process(host).range() === 'loopback'
}
