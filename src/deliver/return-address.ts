import { lookup as systemLookup, type LookupAddress, type LookupOptions } from 'node:dns'
import { isIP, type LookupFunction } from 'node:net'
import { callbackify } from 'node:util'
import ipaddr from 'ipaddr.js'
import { Agent, buildConnector, type Dispatcher } from 'undici'

/** What `check` found. `reason` is for the client: one sentence without a full stop. */
export type ReturnAddressVerdict = { status: 'allowed'; url: URL } | { status: 'refused'; reason: string }

/** Keeps webhooks away from what only this network can reach (server-side request forgery). */
export interface ReturnAddressGuard {
  /** Judges a return address at acceptance, so that a client learns of a typo at once. Never rejects. */
  check: (url: string) => Promise<ReturnAddressVerdict>
  /**
   * Judges again at every connection, as a name may have changed since: a request to a refused address makes no
   * connection and rejects with `code: 'ADDRESS_BLOCKED'` and the reason as its message. Follows no redirects.
   */
  dispatcher: Dispatcher
  /** Closes every connection, also under a request: its delivery is made again. */
  close: () => Promise<void>
}

type Address = ipaddr.IPv4 | ipaddr.IPv6
type Cidr = [Address, number]
type Judge = ReturnType<typeof createJudge>
type Resolve = (host: string, options?: LookupOptions) => Promise<LookupAddress[]>

const MAX_URL_CHARACTERS = 2_048
/** Failures of a look-up that may be over at the next. */
const TRANSIENT = ['EAI_AGAIN', 'ETIMEDOUT', 'ETIMEOUT']
const LOOPBACK = ['127.0.0.1', '::1'].map((address) => ({ address, family: isIP(address) }))

/** All that IANA has opened of IPv6; ipaddr.js calls unicast whatever it does not know. */
const GLOBAL_IPV6 = ipaddr.parseCIDR('2000::/3')

/** The IPv6 prefixes that stand for an IPv4 address, and the byte it starts at. */
const EMBEDDED_IPV4: readonly { prefix: Cidr; start: number }[] = [
  { prefix: ipaddr.parseCIDR('::ffff:0:0/96'), start: 12 }, // IPv4-mapped, RFC 4291 section 2.5.5.2
  { prefix: ipaddr.parseCIDR('64:ff9b::/96'), start: 12 }, // NAT64, RFC 6052 section 2.1
  { prefix: ipaddr.parseCIDR('2002::/16'), start: 2 }, // 6to4, RFC 3056 section 2
]

const KINDS: Readonly<Record<string, string>> = {
  broadcast: 'the broadcast address',
  carrierGradeNat: 'a carrier-grade NAT address',
  linkLocal: 'a link-local address',
  loopback: 'a loopback address',
  multicast: 'a multicast address',
  private: 'a private address',
  teredo: 'a Teredo address',
  uniqueLocal: 'a unique local address',
  unspecified: 'an unspecified address',
}

/**
 * Makes the guard of return addresses. An address may be reached when it is public unicast, or in `allow`; a name,
 * when all of its addresses may. An IPv6 address that carries an IPv4 address is judged as that one.
 *
 * @param options.allow CIDRs that may be reached although they are not public; a bare address is a CIDR of one
 * @param options.lookup resolves names, as `net.connect` takes it; `dns.lookup` by default
 * @param options.connectTimeoutMs bounds resolving at the check, and resolving, TCP and TLS together at a connection
 * @throws an Error for an entry of `allow` that is no CIDR
 * @see https://www.iana.org/assignments/iana-ipv4-special-registry
 * @see https://www.iana.org/assignments/iana-ipv6-special-registry
 */
export function createReturnAddressGuard(options: {
  allow: readonly string[]
  lookup?: LookupFunction
  connectTimeoutMs?: number
}): ReturnAddressGuard {
  const { allow, lookup = systemLookup, connectTimeoutMs = 5_000 } = options
  const judge = createJudge(allow.map(parseCidr))
  const resolve = createResolve(lookup, judge)
  const dispatcher = new Agent({
    connect: createConnect(judge, resolve, connectTimeoutMs),
    keepAliveMaxTimeout: 10_000, // undici lets a receiver ask for ten minutes, and so hold many idle sockets
  })

  async function check(text: string): Promise<ReturnAddressVerdict> {
    const parsed = parseUrl(text)
    if (parsed.status === 'refused') return parsed
    const host = parsed.url.hostname.replaceAll(/[[\]]/g, '')
    try {
      const found = await within(connectTimeoutMs, resolve(host))
      const reason = judge.refusal(host, addressesOf(found))
      return reason === undefined ? parsed : refused(reason)
    } catch (error) {
      const { code, message } = error as NodeJS.ErrnoException
      // A resolver that has no answer just now says nothing of the address, and every try asks again.
      if (code !== undefined && TRANSIENT.includes(code)) return parsed
      return refused(`${host} does not resolve (${code ?? message})`)
    }
  }

  return { check, dispatcher, close: () => dispatcher.destroy() }
}

function createJudge(allowed: readonly Cidr[]) {
  const isAllowed = (address: string) => allowed.some((cidr) => isWithin(judged(address), cidr))

  /** Why the host may not be reached, by the first of its addresses that may not; undefined when it may. */
  function refusal(host: string, addresses: readonly string[]): string | undefined {
    for (const address of addresses) {
      const kind = isAllowed(address) ? undefined : specialKind(judged(address))
      if (kind === undefined) continue
      const found = judged(address).toString()
      const bits = judged(address).kind() === 'ipv4' ? 32 : 128
      const what = found === host ? `is ${kind}` : `resolves to ${found}, ${kind}`
      return `${host} ${what}; QUARTET_CALLBACK_ALLOW=${found}/${bits} allows it`
    }
    return undefined
  }

  return { isAllowed, refusal }
}

function createResolve(lookup: LookupFunction, judge: Judge): Resolve {
  /** Loopback whatever DNS says (RFC 6761 section 6.3): the part of it that is allowed, if any is. */
  function loopback() {
    const allowed = LOOPBACK.filter(({ address }) => judge.isAllowed(address))
    return allowed.length > 0 ? allowed : LOOPBACK
  }

  return async (host, options) => {
    if (isIP(host) !== 0) return [{ address: host, family: isIP(host) }]
    if (/(^|\.)localhost\.?$/i.test(host)) return loopback()
    const addresses = await new Promise<LookupAddress[]>((resolve, reject) => {
      lookup(host, { ...options, all: true }, (error, found, family = 0) => {
        if (error) reject(error)
        else resolve(typeof found === 'string' ? [{ address: found, family }] : found)
      })
    })
    if (addresses.length === 0) throw new Error(`Expected an address of ${host}, got none`)
    return addresses
  }
}

/** Looks three times: at a literal address, which is never looked up; at what a name resolves to; at the peer. */
function createConnect(judge: Judge, resolve: Resolve, timeoutMs: number): buildConnector.connector {
  function blocked(host: string, addresses: readonly string[]): Error | undefined {
    const reason = judge.refusal(host, addresses)
    return reason === undefined ? undefined : codedError('ADDRESS_BLOCKED', reason)
  }

  async function resolveAllowed(host: string, options: LookupOptions): Promise<LookupAddress[]> {
    const found = await resolve(host, options)
    const error = blocked(host, addressesOf(found))
    if (error) throw error
    return found
  }

  const connect = buildConnector({
    timeout: timeoutMs,
    autoSelectFamily: true,
    autoSelectFamilyAttemptTimeout: 1_000, // after Node's 250 ms a far receiver is given up for good
    lookup: callbackify(resolveAllowed),
  })

  return (options, callback) => {
    const host = options.hostname
    const error = isIP(host) === 0 ? undefined : blocked(host, [host])
    if (error) {
      process.nextTick(callback, error, null)
      return
    }
    connect(options, (...[error, socket]) => {
      if (error !== null) return callback(error, null)
      const peer = socket.remoteAddress
      const bad = peer === undefined ? codedError('ECONNRESET', `${host} hung up`) : blocked(host, [peer])
      if (!bad) return callback(null, socket)
      socket.destroy()
      callback(bad, null)
    })
  }
}

function refused(reason: string): ReturnAddressVerdict {
  return { status: 'refused', reason }
}

function parseUrl(text: string): ReturnAddressVerdict {
  if (text.length > MAX_URL_CHARACTERS) {
    return refused(`Expected a URL of at most ${MAX_URL_CHARACTERS} characters, got ${text.length}`)
  }
  if (!URL.canParse(text)) return refused(`Expected an absolute URL, got ${JSON.stringify(text)}`)
  const url = new URL(text)
  if (url.protocol !== 'http:' && url.protocol !== 'https:') {
    return refused(`Expected an http or https URL, got ${url.protocol}`)
  }
  if (url.username !== '' || url.password !== '') {
    return refused('Expected a URL without user name and password, got one with them')
  }
  if (/^\.*$/.test(url.hostname)) return refused(`Expected a URL with a host, got ${JSON.stringify(text)}`)
  return { status: 'allowed', url }
}

function parseCidr(text: string): Cidr {
  const [address = '', bits, ...rest] = text.split('/')
  const width = { 0: -1, 4: 32, 6: 128 }[isIP(address)] ?? -1
  const length = bits === undefined ? width : /^\d{1,3}$/.test(bits) ? Number(bits) : -1
  if (length < 0 || length > width || rest.length > 0) {
    throw new Error(`Expected a CIDR such as 10.0.0.0/8, got ${JSON.stringify(text)}`)
  }
  return [ipaddr.parse(address), length]
}

/** The address that traffic to this one ends up at. */
function judged(text: string): Address {
  const address = ipaddr.parse(text.replace(/%.*$/, '')) // without the zone of a link-local address
  const embedded = EMBEDDED_IPV4.find(({ prefix }) => isWithin(address, prefix))
  if (!embedded) return address
  return ipaddr.fromByteArray(address.toByteArray().slice(embedded.start, embedded.start + 4))
}

/** What kind of special-purpose address this is; undefined for a public one. */
function specialKind(address: Address): string | undefined {
  const range = address.range()
  if (range !== 'unicast') return KINDS[range] ?? 'a special-purpose address'
  return address.kind() === 'ipv4' || isWithin(address, GLOBAL_IPV6) ? undefined : 'a special-purpose address'
}

function isWithin(address: Address, [network, bits]: Cidr): boolean {
  return address.kind() === network.kind() && address.match(network, bits)
}

function addressesOf(found: readonly LookupAddress[]): string[] {
  return found.map(({ address }) => address)
}

function codedError(code: string, message: string): Error {
  return Object.assign(new Error(message), { code })
}

async function within<T>(timeoutMs: number, promise: Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(codedError('ETIMEDOUT', `no answer within ${timeoutMs} ms`)), timeoutMs)
  })
  try {
    return await Promise.race([promise, late])
  } finally {
    clearTimeout(timer)
  }
}
