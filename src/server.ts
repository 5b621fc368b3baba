import { randomUUID } from 'node:crypto'
import { STATUS_CODES } from 'node:http'
import Fastify, {
  LogController,
  type FastifyBaseLogger,
  type FastifyInstance,
  type RawRequestDefaultExpression as RawRequest,
} from 'fastify'
import type { Config } from './config.ts'
import { problems, sendProblem, toProblem, type ProblemCode } from './errors.ts'

const REQUEST_TIMEOUT_MS = 30_000
/** How long a connection stays open after its request was refused unread, for the client to take the answer. */
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
    http: { headersTimeout: REQUEST_TIMEOUT_MS, connectionsCheckingInterval: 1_000 },
    // A request that comes on an open connection while the gateway closes is still answered, and the connection ended.
    return503OnClosing: false,
    frameworkErrors: (error, _request, reply) => void sendProblem(reply, toProblem(error)),
    logController: new LogController({ disableRequestLogging: true, requestIdLogLabel: 'request_id' }),
    genReqId: requestIdOf,
    // A request that cannot even be read gets a problem as well.
    clientErrorHandler(error, socket) {
      if (!socket.writable) return
      const code = brokenRequests[error.code ?? ''] ?? 'malformed_request'
      const { status, title } = problems[code]
      const body = JSON.stringify({ type: `urn:quartet:problem:${code}`, title, status, code })
      socket.end(
        `HTTP/1.1 ${status} ${STATUS_CODES[status]}\r\nconnection: close\r\ncontent-type: application/problem+json\r\n` +
          `content-length: ${Buffer.byteLength(body)}\r\n\r\n${body}`,
      )
      // Who goes on sending, or never hangs up, would keep it open.
      setTimeout(() => socket.destroy(), LINGER_MS).unref()
    },
  })
  // Fastify also reads text/plain unless told otherwise; a job is JSON.
  app.removeContentTypeParser('text/plain')
  app.addHook('onRequest', (request, reply, done) => {
    reply.header('x-request-id', request.id)
    done()
  })
  return app
}
