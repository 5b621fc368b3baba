import cors from '@fastify/cors'
import type { FastifyInstance, FastifyRequest } from 'fastify'
import helmet from 'helmet'
import { IncomingMessage, ServerResponse } from 'node:http'
import { isIP, Socket } from 'node:net'
import { Problem } from '../errors.ts'

/** How long a browser keeps the answer to its question whether it may ask. Seconds. */
const PREFLIGHT_S = 600
/** What changes nothing (RFC 9110 section 9.2.1), and what asks first. */
const SAFE = ['GET', 'HEAD', 'OPTIONS']

/** Whether the page that a request comes from, if it does from one, is ours or one of the operator's. */
export type IsAllowedOrigin = (request: FastifyRequest) => boolean

/**
 * What browsers are told, in every answer, and which pages they may ask for.
 *
 * @param origins `https://host:port` of the pages that may read answers and open sockets, besides the gateway's own
 * @param isLocal whether the gateway lets in everybody who is on this machine, and nobody else
 */
export async function registerBrowsers(
  app: FastifyInstance,
  origins: readonly string[],
  isLocal: boolean,
): Promise<IsAllowedOrigin> {
  const headers = securityHeaders()
  app.addHook('onRequest', (_request, reply, done) => {
    reply.headers(headers)
    done()
  })
  if (origins.length > 0) {
    await app.register(cors, {
      origin: [...origins],
      methods: ['GET', 'HEAD', 'POST', 'PUT'],
      allowedHeaders: [
        'authorization',
        'content-type',
        'idempotency-key',
        'if-none-match',
        'last-event-id',
        'prefer',
        'x-request-id',
      ],
      exposedHeaders: [
        'etag',
        'idempotent-replayed',
        'location',
        'preference-applied',
        'ratelimit',
        'ratelimit-policy',
        'retry-after',
        'www-authenticate',
        'x-correlation-id',
        'x-request-id',
      ],
      maxAge: PREFLIGHT_S,
      strictPreflight: false,
    })
  }
  if (isLocal) app.addHook('onRequest', refuseRebinding)
  // A browser sends some POSTs without asking first, with whatever it has to show who it is.
  app.addHook('onRequest', (request, _reply, done) => {
    if (SAFE.includes(request.method) || isAllowed(request)) return done()
    done(
      new Problem(
        'forbidden',
        'Expected a page of the gateway’s own origin, or of one that the operator allows',
      ),
    )
  })
  return isAllowed

  /** Only browsers say which page it was, and they do not lie. RFC 6454 section 7, RFC 6455 section 10.2. */
  function isAllowed({ headers: { origin, host } }: FastifyRequest): boolean {
    if (origin === undefined || origins.includes(origin)) return true
    return URL.canParse(origin) && new URL(origin).host === host
  }
}

/**
 * A page can have its own name resolve to 127.0.0.1: then its requests are of the same origin, and a browser here lets it
 * read the answers (DNS rebinding). What it cannot do is ask under another name, or one without a dot.
 */
function refuseRebinding(
  { headers: { host = '' } }: FastifyRequest,
  _reply: unknown,
  done: (error?: Error) => void,
) {
  const { hostname } = URL.canParse(`http://${host}`) ? new URL(`http://${host}`) : { hostname: '' }
  const name = hostname.replace(/\.$/, '')
  if (!name.includes('.') || isIP(name) !== 0 || name.endsWith('.localhost')) return done()
  done(
    new Problem(
      'forbidden',
      `Expected localhost, an IP address or a name without dots as the host, got ${name}; with QUARTET_AUTH, ` +
        'or QUARTET_ALLOW_ANONYMOUS=1, it may be any',
    ),
  )
}

/**
 * Answers are data: nothing of them is to be run, framed or guessed at. What is about the whole host (HSTS) is for whoever
 * ends TLS in front. They are the same for all answers, so helmet is asked once: for each it would cost 7 µs, and what is set
 * on Node's own response stays in memory for as long as a stream does.
 */
function securityHeaders(): Readonly<Record<string, string>> {
  const set = helmet({
    contentSecurityPolicy: {
      useDefaults: false,
      directives: { 'default-src': ["'none'"], 'frame-ancestors': ["'none'"] },
    },
    referrerPolicy: { policy: 'no-referrer' },
    xFrameOptions: { action: 'deny' },
    strictTransportSecurity: false,
    crossOriginOpenerPolicy: false,
    originAgentCluster: false,
    xDnsPrefetchControl: false,
    xDownloadOptions: false,
    xPermittedCrossDomainPolicies: false,
    xXssProtection: false,
  })
  const request = new IncomingMessage(new Socket())
  const response = new ServerResponse(request)
  set(request, response, (error) => {
    if (error) throw error
  })
  return response.getHeaders() as Record<string, string>
}
