import { connect as connectTcp, isIP, type Socket, type TcpNetConnectOpts } from 'node:net'
import { connect as connectTls } from 'node:tls'
import { tlsError } from './connect-error.ts'

/** Failures of the line, which are none of TLS even while it is agreed upon. */
const OF_THE_LINE = ['ECONNRESET', 'EPIPE', 'ETIMEDOUT']

/**
 * Opens a TCP connection. A host with several addresses is tried at all of them.
 *
 * @param signal gives it up, with its reason as the error
 */
export async function openTcp(options: TcpNetConnectOpts, signal: AbortSignal): Promise<Socket> {
  const socket = connectTcp({
    autoSelectFamily: true,
    autoSelectFamilyAttemptTimeout: 1_000, // after Node's 250 ms a far receiver is given up for good
    noDelay: true,
    keepAlive: true,
    keepAliveInitialDelay: 60_000,
    ...options,
  })
  await opened(socket, 'connect', signal)
  return socket
}

/**
 * Makes a connection a TLS one. Where that fails, Node.js ends the connection with it.
 *
 * @param host whom the certificate must be for
 * @param signal gives it up, with its reason as the error
 * @throws an error with code `TLS_FAILED`, unless it was the line that failed
 */
export async function openTls(socket: Socket, host: string, signal: AbortSignal): Promise<Socket> {
  // A name's last dot is part of no certificate; an address is not to be sent as a name (RFC 6066 section 3).
  const name = host.replace(/\.$/, '')
  const servername = isIP(name) === 0 ? name : ''
  const secured = connectTls({ socket, host: name, servername, ALPNProtocols: ['http/1.1'] })
  try {
    await opened(secured, 'secureConnect', signal)
    return secured
  } catch (error) {
    const { code = '' } = error as NodeJS.ErrnoException
    throw signal.aborted || OF_THE_LINE.includes(code) ? error : tlsError(error as Error)
  }
}

/**
 * Its error listener stays: what fails later must not be thrown for want of one, and must end the connection, which
 * Node.js keeps open when a TLS record is broken, as undici keeps waiting for an answer.
 */
function opened(socket: Socket, event: 'connect' | 'secureConnect', signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const giveUp = () => socket.destroy(signal.reason as Error)
    if (signal.aborted) giveUp()
    signal.addEventListener('abort', giveUp, { once: true })
    socket.on('error', (error) => {
      reject(error)
      socket.destroy()
    })
    socket.once('close', () => reject(hangUp()))
    socket.once(event, () => {
      signal.removeEventListener('abort', giveUp)
      resolve()
    })
  })
}

/** What `node:http` says of a connection that ends without a word. */
export function hangUp(): Error {
  return Object.assign(new Error('socket hang up'), { code: 'ECONNRESET' })
}
