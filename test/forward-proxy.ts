import { once } from 'node:events'
import { createServer, type IncomingMessage, type Server } from 'node:http'
import { createServer as createTlsServer } from 'node:https'
import { connect, type AddressInfo, type Socket } from 'node:net'
import type { Test } from 'tap'
import { testTls } from './hostile-receivers.ts'

export interface ForwardProxy {
  /** `http://127.0.0.1:<port>`, or `https://localhost:<port>`. */
  readonly url: string
  /** What was asked for, `host:port`, and with which credentials. */
  readonly asked: readonly { authority: string; authorization: string | undefined }[]
  /** Connections taken so far. */
  connections(): number
  /** Resolves when nobody is connected. */
  left(): Promise<void>
}

/**
 * A forward proxy on loopback, for CONNECT alone. It asks for no credentials, refuses nothing, and resolves every name
 * to 127.0.0.1.
 *
 * @param options.answer is given who asks in place of all that
 */
export async function startForwardProxy(
  t: Pick<Test, 'teardown'>,
  {
    isSecure = false,
    answer = openTunnel,
  }: { isSecure?: boolean; answer?: (socket: Socket, request: IncomingMessage) => unknown } = {},
): Promise<ForwardProxy> {
  const asked: { authority: string; authorization: string | undefined }[] = []
  const sockets = new Set<Socket>()
  let connections = 0
  const server: Server = isSecure ? createTlsServer(testTls) : createServer()
  server.on('connection', (socket: Socket) => {
    connections++
    sockets.add(socket.on('close', () => sockets.delete(socket)))
  })
  server.on('connect', (request, socket: Socket) => {
    asked.push({ authority: request.url ?? '', authorization: request.headers['proxy-authorization'] })
    socket.on('error', () => {})
    answer(socket, request)
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => {
    server.close()
    for (const socket of sockets) socket.destroy()
  })
  const { port } = server.address() as AddressInfo
  return {
    url: isSecure ? `https://localhost:${port}` : `http://127.0.0.1:${port}`,
    asked,
    connections: () => connections,
    async left() {
      // Whoever does not read does not see the end, and Node.js leaves it to us to answer that of a tunnel.
      for (const socket of sockets) {
        socket.on('end', () => socket.end()).resume()
        await new Promise((gone) => socket.once('close', gone))
      }
    },
  }
}

function openTunnel(client: Socket, { url = '' }: IncomingMessage): void {
  const receiver = connect({ host: '127.0.0.1', port: Number(url.slice(url.lastIndexOf(':') + 1)) })
  receiver.once('connect', () => {
    client.write('HTTP/1.1 200 Connection established\r\n\r\n')
    client.pipe(receiver).pipe(client)
  })
  // An end that comes without a word is passed on as such.
  receiver.on('error', () => client.resetAndDestroy())
  client.on('error', () => receiver.destroy())
  receiver.on('close', () => client.destroy())
  client.on('close', () => receiver.destroy())
}
