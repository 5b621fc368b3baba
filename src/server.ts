import { randomUUID } from 'node:crypto'
import { STATUS_CODES, type IncomingMessage } from 'node:http'
import type { Duplex } from 'node:stream'
import Fastify, {
  LogController,
  type FastifyBaseLogger,
  type FastifyInstance,
  type RawRequestDefaultExpression as RawRequest,
} from 'fastify'
import type { Config } from './config.ts'
import { Problem, problemObject, sendProblem, toProblem, type ProblemCode } from './errors.ts'

const REQUEST_TIMEOUT_MS = 30_000
/** How long a connection on which nothing more is read stays open, for the client to take the answer. */
const LINGER_MS = 1_000

/** What Node's parser and its timeouts call a request that cannot be read. */
const brokenRequests: Readonly<Record<string, ProblemCode>> = {
  HPE_HEADER_OVERFLOW: 'headers_too_large',
  ERR_HTTP_REQUEST_TIMEOUT: 'request_timeout',
}

/** The client's own, or that of a proxy in front, if it is fit to stand in a log. */
function requestIdOf({ headers: { 'x-request-id': given } }: RawRequest): string {
  return typeof given === 'string' && /^[\w.:-]{1,128}$/.test(given) ? given : randomUUID()
}

/** Answers what never came to a route, and ends its connection. */
export function refuseUnread(socket: Duplex, code: ProblemCode, detail?: string): void {
  if (!socket.writable) return
  const problem = problemObject(code, detail)
  const body = JSON.stringify(problem)
  endSlowly(
    socket,
    `HTTP/1.1 ${problem.status} ${STATUS_CODES[problem.status]}\r\nconnection: close\r\n` +
      `content-type: application/problem+json\r\ncontent-length: ${Buffer.byteLength(body)}\r\n\r\n${body}`,
  )
}

/** Cut at once, a connection on which more has come than was read may lose its answer. */
function endSlowly(socket: Duplex, last?: string): void {
  socket.end(last)
  // Who goes on sending, or never hangs up, would keep it open.
  setTimeout(() => socket.destroy(), LINGER_MS).unref()
}

/** An HTTP server without routes: its limits, its request ids, and its answer to what cannot even be read. */
export function createServer(
  logger: FastifyBaseLogger | false,
  { maxBodyBytes, trustedProxies }: Pick<Config, 'maxBodyBytes' | 'trustedProxies'>,
): FastifyInstance {
  const app = Fastify({
    ...(logger ? { loggerInstance: logger } : {}),
    bodyLimit: maxBodyBytes,
    trustProxy: trustedProxies.length > 0 && [...trustedProxies],
    requestTimeout: REQUEST_TIMEOUT_MS,
    // Node would swap the two if the headers' were the longer one, as is its default, and look only every 30 s.
    // Without a Host, or with an Expect that it does not know, it would answer without a problem.
    http: {
      headersTimeout: REQUEST_TIMEOUT_MS,
      connectionsCheckingInterval: 1_000,
      requireHostHeader: false,
    },
    // A request that comes on an open connection while the gateway closes is still answered, and the connection ended.
    return503OnClosing: false,
    frameworkErrors: (error, _request, reply) => void sendProblem(reply, toProblem(error)),
    logController: new LogController({ disableRequestLogging: true, requestIdLogLabel: 'request_id' }),
    genReqId: requestIdOf,
    // A request that cannot even be read gets a problem as well.
    clientErrorHandler(error, socket) {
      refuseUnread(socket, brokenRequests[error.code ?? ''] ?? 'malformed_request')
    },
  })
  // Fastify also reads text/plain unless told otherwise; a job is JSON.
  app.removeContentTypeParser('text/plain')
  app.server.on('checkExpectation', ({ socket }) =>
    refuseUnread(socket, 'malformed_request', 'Expected no Expect but 100-continue'),
  )
  // Node looks after no connection that is to be upgraded: but for a WebSocket, the answer is the last on it.
  const upgrades = new WeakSet<IncomingMessage>()
  app.server.on('upgrade', (request) => upgrades.add(request))
  app.addHook('onRequest', ({ id, headers, raw }, reply, done) => {
    reply.header('x-request-id', id)
    if (upgrades.has(raw)) reply.header('connection', 'close')
    // RFC 9112 section 3.2.
    if (headers.host !== undefined || raw.httpVersion !== '1.1') return done()
    reply.header('connection', 'close')
    done(new Problem('malformed_request', 'Expected a Host'))
  })
  app.addHook('onResponse', ({ raw: { socket }, raw }, _reply, done) => {
    if (!upgrades.has(raw) || socket.destroyed) return done()
    // Not before it is closed: @fastify/websocket's own hook comes next, and destroys it.
    socket.once('close', () => done())
    endSlowly(socket)
    // What still comes is for nobody; unread, the client's own end would not be seen.
    socket.resume()
  })
  return app
}
