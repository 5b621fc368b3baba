import websocket from '@fastify/websocket'
import type { FastifyInstance, FastifyRequest } from 'fastify'
import type { WebSocket } from 'ws'
import { open } from '../access/authenticate.ts'
import type { IsAllowedOrigin } from '../access/browsers.ts'
import { Problem } from '../errors.ts'
import { refuseUnread } from '../server.ts'
import { closes, createSession, type Close, type SessionParts } from './websocket-session.ts'

/** docs/PROTOCOL.md "WebSocket". */
export const SUBPROTOCOL = 'quartet.v1'
const MAX_FRAME_BYTES = 65_536

export interface SocketLimits {
  readonly initMs: number
  readonly heartbeatMs: number
  readonly maxAgeMs: number
  /** How long a close may take before the connection is cut. */
  readonly closeMs: number
}

export const socketLimits: SocketLimits = {
  initMs: 10_000,
  heartbeatMs: 15_000,
  maxAgeMs: 600_000,
  closeMs: 2_000,
}

export interface WebSocketParts extends SessionParts {
  /** A browser lets any page open a WebSocket to any address, and says only in `Origin` which page it was. */
  readonly isAllowedOrigin: IsAllowedOrigin
}

/** GET /ws: one connection for many jobs, each frame a JSON object with an `op`. */
export async function registerWebSocket(
  app: FastifyInstance,
  parts: WebSocketParts,
  limits: SocketLimits = socketLimits,
): Promise<void> {
  await app.register(websocket, {
    options: {
      maxPayload: MAX_FRAME_BYTES,
      // Left alone, ws would agree to whatever the client offers first.
      handleProtocols: (offered: Set<string>) => (offered.has(SUBPROTOCOL) ? SUBPROTOCOL : false),
    },
    errorHandler: (error: Error, socket: WebSocket) => {
      // Broken frames and cut connections: ws has closed the socket, or is about to.
      app.log.debug({ err: error }, 'a WebSocket broke')
      socket.terminate()
    },
    preClose(this: FastifyInstance, done: () => void) {
      for (const client of this.websocketServer.clients) client.close(closes.going_away, 'going away')
      setTimeout(() => {
        for (const client of this.websocketServer.clients) client.terminate()
      }, limits.closeMs).unref()
      this.websocketServer.close(() => done())
    },
  })
  // ws would answer a broken handshake without a problem.
  app.websocketServer.on('wsClientError', ({ message }, socket) =>
    refuseUnread(socket, 'malformed_request', message),
  )
  app.route({
    method: 'GET',
    url: '/ws',
    // Who it is, is said in `init`.
    ...open,
    handler: (_request, reply) => {
      // RFC 9110 §15.5.22: a 426 names the protocol, and §7.8: so does its Connection.
      reply.header('upgrade', 'websocket').header('connection', 'upgrade')
      throw new Problem(
        'upgrade_required',
        `Expected a WebSocket upgrade with the subprotocol ${SUBPROTOCOL}`,
      )
    },
    wsHandler: (socket, request) => {
      if (!parts.isAllowedOrigin(request)) return socket.close(closes.forbidden, 'Expected an allowed origin')
      return serve(socket, request, parts, limits)
    },
  })
}

function serve(socket: WebSocket, request: FastifyRequest, parts: SessionParts, limits: SocketLimits): void {
  const close: Close = (reason, message) => {
    socket.close(closes[reason], message)
    // A peer that does not answer the close, or cannot read it, is cut off.
    setTimeout(() => socket.terminate(), limits.closeMs).unref()
  }
  if (socket.protocol !== SUBPROTOCOL) return close('bad_message', `Expected the subprotocol ${SUBPROTOCOL}`)

  const { method, headers, log, socket: connection } = request
  const asking = { method, route: '/ws', params: {}, headers, address: request.ip }
  const peer = {
    socket,
    connection,
    asking,
    close,
    heartbeatMs: limits.heartbeatMs,
    log,
  }
  const session = createSession(peer, parts)
  const initTimer = setTimeout(() => {
    if (!session.isReady()) close('no_init', `Expected init within ${limits.initMs} ms`)
  }, limits.initMs)
  const ageTimer = setTimeout(
    () => close('too_old', 'reconnect to go on'),
    limits.maxAgeMs * (0.8 + 0.4 * Math.random()),
  )
  const stopHeartbeat = startHeartbeat(socket, limits.heartbeatMs)

  socket.on('message', (data, isBinary) => {
    if (isBinary) return close('bad_message', 'Expected text frames')
    session.receive((data as Buffer).toString())
  })
  socket.on('close', () => {
    clearTimeout(initTimer)
    clearTimeout(ageTimer)
    stopHeartbeat()
    session.end()
  })
}

/** Pings at every beat; a peer that has said nothing between two beats is gone (RFC 6455 §5.5.2). */
function startHeartbeat(socket: WebSocket, everyMs: number): () => void {
  let isAlive = true
  const seen = () => {
    isAlive = true
  }
  socket.on('pong', seen)
  socket.on('message', seen)
  const timer = setInterval(() => {
    if (!isAlive) return socket.terminate()
    isAlive = false
    socket.ping()
  }, everyMs)
  return () => clearInterval(timer)
}
