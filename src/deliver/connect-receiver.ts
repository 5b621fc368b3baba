import type { LookupAddress, LookupOptions } from 'node:dns'
import { isIP, type Socket } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'
import { callbackify } from 'node:util'
import { errors, type buildConnector } from 'undici'
import type { OpenTunnel } from './callback-proxy.ts'
import { connectError } from './connect-error.ts'
import type { AddressJudge } from './judge-address.ts'
import { hangUp, openTcp, openTls } from './open-socket.ts'
import type { ResolveHost } from './resolve-host.ts'

/** How long a name may take to resolve where the proxy can do it for us. */
const PROXIED_LOOKUP_MS = 2_000

/** What makes the connections of an undici dispatcher. */
export interface ConnectReceiver {
  connect: buildConnector.connector
  /** Gives up the connections that are being made. */
  giveUp: () => void
}

/**
 * Makes what connects to receivers, to addresses that the judge allows and to no others. It looks three times: at a
 * literal address, which is never looked up; at what a name resolves to; at the peer.
 *
 * @param options.openTunnel takes the connections through a proxy. A name is then resolved only to be judged, and is
 *   left to the proxy when it does not resolve here; the proxy's own address is not judged.
 * @param options.timeoutMs bounds resolving, TCP, the proxy's answer and TLS together
 * @param options.maxAnswerBytes bounds what is read of an answer, whatever it is made of
 */
export function createConnectReceiver(options: {
  judge: AddressJudge
  resolve: ResolveHost
  openTunnel: OpenTunnel | null
  timeoutMs: number
  maxAnswerBytes: number
}): ConnectReceiver {
  const { judge, resolve, openTunnel, timeoutMs, maxAnswerBytes } = options
  const beingMade = new Set<AbortController>()

  async function connect(target: buildConnector.Options): Promise<Socket> {
    const attempt = new AbortController()
    const late = connectError('CONNECT_TIMEOUT', `Expected a connection within ${timeoutMs} ms, got none`)
    const timer = setTimeout(() => attempt.abort(late), timeoutMs)
    beingMade.add(attempt)
    try {
      const { hostname, protocol } = target
      const port = Number(target.port || (protocol === 'https:' ? 443 : 80))
      const plain = openTunnel
        ? await openProxied(openTunnel, hostname, port, attempt.signal)
        : await openDirect(hostname, port, attempt.signal)
      const socket = protocol === 'https:' ? await openTls(plain, hostname, attempt.signal) : plain
      limitAnswers(socket, maxAnswerBytes)
      endForGood(socket)
      return socket
    } finally {
      clearTimeout(timer)
      beingMade.delete(attempt)
    }
  }

  async function openDirect(host: string, port: number, signal: AbortSignal): Promise<Socket> {
    if (isIP(host) !== 0) mustBeAllowed(host, [host])
    const socket = await openTcp({ host, port, lookup: callbackify(resolveAllowed) }, signal)
    try {
      if (socket.remoteAddress === undefined) throw hangUp()
      mustBeAllowed(host, [socket.remoteAddress])
      return socket
    } catch (error) {
      socket.destroy()
      throw error
    }
  }

  async function openProxied(
    openTunnel: OpenTunnel,
    host: string,
    port: number,
    signal: AbortSignal,
  ): Promise<Socket> {
    const found = resolve(host).catch(() => [])
    const none = delay(PROXIED_LOOKUP_MS, [], { ref: false })
    mustBeAllowed(host, addressesOf(await Promise.race([found, none])))
    signal.throwIfAborted()
    return openTunnel(isIP(host) === 6 ? `[${host}]:${port}` : `${host}:${port}`, signal)
  }

  async function resolveAllowed(host: string, options: LookupOptions): Promise<LookupAddress[]> {
    const found = await resolve(host, options)
    mustBeAllowed(host, addressesOf(found))
    return found
  }

  function mustBeAllowed(host: string, addresses: readonly string[]): void {
    const reason = judge.refusal(host, addresses)
    if (reason !== undefined) throw connectError('ADDRESS_BLOCKED', reason)
  }

  const dial = callbackify(connect)
  return {
    connect(target, callback) {
      dial(target, (error: Error | null, socket) => (error ? callback(error, null) : callback(null, socket)))
    },
    giveUp() {
      for (const attempt of beingMade) attempt.abort()
    },
  }
}

/** Cuts the connection when more than that came since we last wrote: a body, headers, 1xx answers, chunks of nothing. */
function limitAnswers(socket: Socket, maxBytes: number): void {
  let written = socket.bytesWritten
  let read = socket.bytesRead
  let begin = read
  socket.on('readable', () => {
    if (socket.bytesWritten !== written) begin = read
    written = socket.bytesWritten
    read = socket.bytesRead
    if (read - begin <= maxBytes) return
    const error = connectError('ANSWER_TOO_LONG', `Expected an answer of at most ${maxBytes} bytes, got more`)
    // Once the parser has had what is here: there may be a status in it.
    process.nextTick(() => socket.destroy(error))
  })
}

/**
 * undici takes a request that it gave up for one still to be sent, and makes another connection for it, where the old one
 * ends with this error of its own: https://github.com/nodejs/undici/issues/5845.
 */
function endForGood(socket: Socket): void {
  const destroy = socket.destroy.bind(socket)
  socket.destroy = (error) => {
    const isGivenUp = error instanceof errors.InformationalError && error.message === 'aborted'
    return destroy(isGivenUp ? new errors.SocketError(error.message) : error)
  }
}

function addressesOf(found: readonly LookupAddress[]): string[] {
  return found.map(({ address }) => address)
}
