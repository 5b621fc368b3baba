import type { LookupAddress } from 'node:dns'
import type { LookupFunction } from 'node:net'
import { Agent, type Dispatcher } from 'undici'
import { createOpenTunnel, parseCallbackProxy } from './callback-proxy.ts'
import { createConnectReceiver } from './connect-receiver.ts'
import { createAddressJudge, hiddenRefusal } from './judge-address.ts'
import { createLookup } from './look-up.ts'
import { createResolveHost } from './resolve-host.ts'

/** What `check` found. `reason` is for the client: one sentence without a full stop. */
export type ReturnAddressVerdict = { status: 'allowed'; url: URL } | { status: 'refused'; reason: string }

/** Keeps webhooks away from what only this network can reach (server-side request forgery). */
export interface ReturnAddressGuard {
  /** Judges a return address at acceptance, so that a client learns of a typo at once. Never rejects. */
  check: (url: string) => Promise<ReturnAddressVerdict>
  /**
   * Judges again at every connection, as a name may have changed since: a request to a refused address makes no
   * connection and rejects with `code: 'ADDRESS_BLOCKED'` and the reason as its message. Follows no redirects, and
   * knows of no proxy but the one of the options, whatever the environment says.
   */
  dispatcher: Dispatcher
  /** Closes every connection, also under a request: its delivery is made again. */
  close: () => Promise<void>
}

const MAX_URL_CHARACTERS = 2_048
/** Failures of a look-up that may be over at the next. */
const TRANSIENT = ['EAI_AGAIN', 'EREFUSED', 'ESERVFAIL', 'ETIMEDOUT', 'ETIMEOUT']

/**
 * Makes the guard of return addresses. An address may be reached when it is public unicast, or in `allow`; a name,
 * when all of its addresses may. An IPv6 address that carries an IPv4 address is judged as that one.
 *
 * @param options.allow CIDRs that may be reached although they are not public; a bare address is a CIDR of one
 * @param options.isDiscreet whether a client is not told what a name resolves to, nor whether it does
 * @param options.proxy the URL of a forward proxy that takes every connection; see {@link parseCallbackProxy}. A name
 *   that does not resolve here is then left to it, so it must itself refuse what is not to be reached.
 * @param options.lookup resolves names, as `net.connect` takes it; look-up.ts by default
 * @param options.connectTimeoutMs bounds resolving at the check, and resolving, TCP and TLS together at a connection
 * @param options.maxAnswerBytes how much of an answer is read; the connection of a longer one is destroyed
 * @throws an Error for an entry of `allow` that is no CIDR, and for a `proxy` that is none
 */
export function createReturnAddressGuard(options: {
  allow: readonly string[]
  isDiscreet?: boolean
  proxy?: string | null
  lookup?: LookupFunction
  connectTimeoutMs?: number
  maxAnswerBytes?: number
}): ReturnAddressGuard {
  const { allow, isDiscreet = false, proxy = null, lookup = createLookup() } = options
  const { connectTimeoutMs = 5_000, maxAnswerBytes = 65_536 } = options
  const judge = createAddressJudge(allow, isDiscreet)
  const resolve = createResolveHost(lookup, judge)
  const openTunnel = proxy === null ? null : createOpenTunnel(parseCallbackProxy(proxy))
  const { connect, giveUp } = createConnectReceiver({
    judge,
    resolve,
    openTunnel,
    timeoutMs: connectTimeoutMs,
    maxAnswerBytes,
  })
  const dispatcher = new Agent({
    connect,
    keepAliveMaxTimeout: 10_000, // undici lets a receiver ask for ten minutes, and so hold many idle sockets
  })

  async function check(text: string): Promise<ReturnAddressVerdict> {
    const parsed = parseUrl(text)
    if (parsed.status === 'refused') return parsed
    const host = parsed.url.hostname.replaceAll(/[[\]]/g, '')
    let found: LookupAddress[]
    try {
      found = await within(connectTimeoutMs, resolve(host))
    } catch (error) {
      const { code, message } = error as NodeJS.ErrnoException
      // A resolver that has no answer just now says nothing of the address, and every try asks again.
      if (openTunnel !== null || (code !== undefined && TRANSIENT.includes(code))) return parsed
      return refused(isDiscreet ? hiddenRefusal(host) : `${host} does not resolve (${code ?? message})`)
    }
    const addresses = found.map(({ address }) => address)
    const reason = judge.refusal(host, addresses)
    return reason === undefined ? parsed : refused(reason)
  }

  async function close() {
    const closed = dispatcher.destroy()
    giveUp()
    await closed
  }

  return { check, dispatcher, close }
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

async function within<T>(timeoutMs: number, promise: Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<never>((_, reject) => {
    const error = Object.assign(new Error(`no answer within ${timeoutMs} ms`), { code: 'ETIMEDOUT' })
    timer = setTimeout(() => reject(error), timeoutMs)
  })
  try {
    return await Promise.race([promise, late])
  } finally {
    clearTimeout(timer)
  }
}
