import { once } from 'node:events'
import { request as requestHttp, type IncomingMessage } from 'node:http'
import type { Socket } from 'node:net'
import { connectError } from './connect-error.ts'
import { openTcp, openTls } from './open-socket.ts'

/** A forward proxy; `authorization` is what it gets as `Proxy-Authorization`. */
export interface CallbackProxy {
  host: string
  port: number
  isSecure: boolean
  authorization: string | null
}

/**
 * Opens a connection to `host:port` through the proxy.
 *
 * @param signal gives it up
 * @throws an error with code `PROXY_UNUSABLE` where the proxy serves nobody (it is not there, or refuses our
 *   credentials), and `PROXY_REFUSED` where it may well serve others. Neither tells where the proxy is.
 */
export type OpenTunnel = (authority: string, signal: AbortSignal) => Promise<Socket>

/**
 * Reads where the proxy is.
 *
 * @param text `http://host:port` or `https://host:port`, with `user:password@` before the host where it asks for them
 * @throws an Error that says what is wrong with it, and shows nothing of it
 */
export function parseCallbackProxy(text: string): CallbackProxy {
  const expected = 'Expected http://user:password@host:port, or https, got'
  if (!URL.canParse(text)) throw new Error(`${expected} no URL`)
  const { protocol, hostname, port, username, password, pathname, search, hash } = new URL(text)
  if (protocol !== 'http:' && protocol !== 'https:') throw new Error(`${expected} another scheme`)
  if (pathname !== '/' || search !== '' || hash !== '') throw new Error(`${expected} more behind the host`)
  const isSecure = protocol === 'https:'
  return {
    host: hostname.replaceAll(/[[\]]/g, ''),
    port: Number(port || (isSecure ? 443 : 80)),
    isSecure,
    authorization: username === '' && password === '' ? null : basic(username, password),
  }

  function basic(...encoded: readonly string[]): string {
    const [user = '', secret = ''] = encoded.map(decode)
    if (user.includes(':')) throw new Error(`${expected} a user name with a colon`) // RFC 7617 section 2
    return `Basic ${Buffer.from(`${user}:${secret}`).toString('base64')}`
  }

  function decode(part: string): string {
    try {
      return decodeURIComponent(part)
    } catch (error) {
      throw new Error(`${expected} a % that encodes nothing`, { cause: error })
    }
  }
}

/**
 * Makes what opens tunnels through a proxy, by CONNECT for http as for https (RFC 9110 section 9.3.6): what a receiver
 * then says is never taken for what the proxy says.
 *
 * Not undici's ProxyAgent, which asks a proxy that hangs up again and again without end, deaf to the request's signal
 * (https://github.com/nodejs/undici/issues/3897), and has no one limit for all that it takes to be connected.
 */
export function createOpenTunnel(proxy: CallbackProxy): OpenTunnel {
  const { host, port, isSecure, authorization } = proxy

  return async (authority, signal) => {
    const socket = await reach(signal)
    try {
      const { statusCode = 0, headers } = await ask(socket, authority, signal)
      if (statusCode >= 200 && statusCode < 300) return socket
      // Only with this header is it about us (RFC 9110 section 15.5.8): Smokescreen refuses targets by a 407 as well.
      const isAboutUs = statusCode === 407 && headers['proxy-authenticate'] !== undefined
      if (isAboutUs) throw unusable('take our credentials', '407')
      throw refused(`${statusCode}`)
    } catch (error) {
      socket.destroy()
      throw error
    }
  }

  async function reach(signal: AbortSignal): Promise<Socket> {
    try {
      const socket = await openTcp({ host, port }, signal)
      return isSecure ? await openTls(socket, host, signal) : socket
    } catch (error) {
      throw unusable('be reached', nameOf(error), error)
    }
  }

  async function ask(socket: Socket, path: string, signal: AbortSignal): Promise<IncomingMessage> {
    const headers = { host: path, ...(authorization !== null && { 'proxy-authorization': authorization }) }
    const request = requestHttp({ method: 'CONNECT', path, headers, createConnection: () => socket })
    request.on('error', () => {}) // also of the socket's later ones, which are its owner's
    try {
      const answered = once(request.end(), 'connect', { signal })
      const [response, , head] = (await answered) as [IncomingMessage, Socket, Buffer]
      if (head.length > 0) socket.unshift(head)
      return response
    } catch (error) {
      throw refused(signal.aborted ? 'none in time' : nameOf(error), error)
    }
  }
}

function unusable(expected: string, found: string, cause?: unknown): Error {
  return connectError('PROXY_UNUSABLE', `Expected the callback proxy to ${expected}, got ${found}`, cause)
}

function refused(found: string, cause?: unknown): Error {
  const expected = 'Expected the callback proxy to answer CONNECT with a 2xx status'
  return connectError('PROXY_REFUSED', `${expected}, got ${found}`, cause)
}

/** A code and no message, as who reads the record of a delivery need not know where the proxy is. */
function nameOf(error: unknown): string {
  const { code, name, cause } = error as NodeJS.ErrnoException & { cause?: unknown }
  return code === 'TLS_FAILED' ? nameOf(cause) : (code ?? name)
}
