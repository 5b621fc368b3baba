import type { FastifyError, FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { redact } from './redact.ts'

/**
 * Every problem that Quartet reports, by its stable `code`: the HTTP status it is answered with and its title.
 * This is the one place that lists them; docs/PROTOCOL.md shows the same table, and a test compares the two.
 */
export const problems = {
  malformed_json: { status: 400, title: 'The body is not JSON' },
  malformed_request: { status: 400, title: 'The request is malformed' },
  bad_cursor: { status: 400, title: 'The cursor is not a sequence number' },
  unauthorized: { status: 401, title: 'The credentials are missing or not valid' },
  missing_scope: { status: 403, title: 'The credentials are not for this' },
  type_not_allowed: { status: 403, title: 'The credentials are not for jobs of this type' },
  forbidden: { status: 403, title: 'This is not allowed' },
  not_found: { status: 404, title: 'There is no such job' },
  no_such_delivery: { status: 404, title: 'The job has no such delivery' },
  no_result_yet: { status: 404, title: 'The job has no result yet' },
  no_such_route: { status: 404, title: 'There is nothing at this address' },
  not_acceptable: { status: 406, title: 'None of the accepted media types can be produced' },
  request_timeout: { status: 408, title: 'The request did not arrive in time' },
  no_callback: { status: 409, title: 'The job has no return address' },
  already_finished: { status: 409, title: 'The job has already ended' },
  no_result: { status: 410, title: 'The job ended without a result' },
  payload_too_large: { status: 413, title: 'The body is too large' },
  unsupported_media_type: { status: 415, title: 'The body must be application/json' },
  invalid: { status: 422, title: 'The request does not match its schema' },
  idempotency_mismatch: { status: 422, title: 'The idempotency key was used with another body' },
  upgrade_required: { status: 426, title: 'This address speaks WebSocket' },
  rate_limited: { status: 429, title: 'There were too many requests' },
  too_many_streams: { status: 429, title: 'Too many streams are open' },
  too_many_waiting: { status: 429, title: 'Too many of your jobs of this type are waiting' },
  headers_too_large: { status: 431, title: 'The headers are too large' },
  internal: { status: 500, title: 'Something went wrong in the gateway' },
  queue_full: { status: 503, title: 'Too many jobs of this type are waiting' },
  store_unavailable: { status: 503, title: 'The store cannot be reached' },
  authentication_unavailable: { status: 503, title: 'The credentials cannot be checked now' },
  closing: { status: 503, title: 'The gateway is shutting down' },
  step_failed: { status: 500, title: 'A step failed' },
  result_too_large: { status: 500, title: 'The result of a step is too large' },
  job_removed: { status: 500, title: 'The job was removed from its queue' },
  job_lost: { status: 500, title: 'The job was lost by its queue' },
  deadline_exceeded: { status: 504, title: 'The job did not end before its deadline' },
} as const

export type ProblemCode = keyof typeof problems

/** One violation: `path` is a JSON Pointer (RFC 6901) into the request body. */
export interface Violation {
  readonly path: string
  readonly message: string
}

/** An RFC 9457 problem object, as it appears on the wire. */
export interface ProblemObject {
  readonly type: string
  readonly title: string
  readonly status: number
  readonly code: ProblemCode
  readonly detail?: string
  readonly errors?: readonly Violation[]
  /** Seconds, as in the `Retry-After` header, which only HTTP has. */
  readonly retry_after?: number
  /** With `step_failed` and `result_too_large`: which step, and after how many attempts. */
  readonly step?: string
  readonly index?: number
  readonly attempts?: number
  /** With `step_failed`: the problem object that the worker gave as its reason. */
  readonly problem?: Readonly<Record<string, unknown>>
}

export interface ProblemExtras {
  readonly errors?: readonly Violation[]
  /** Seconds, for the `Retry-After` header. */
  readonly retryAfterS?: number
  /** For the `WWW-Authenticate` header (RFC 9110 section 11.6.1). */
  readonly challenge?: string
  readonly cause?: unknown
}

/** Builds the RFC 9457 object of a code. */
export function problemObject(
  code: ProblemCode,
  detail?: string,
  errors?: readonly Violation[],
): ProblemObject {
  const { status, title } = problems[code]
  return {
    type: `urn:quartet:problem:${code}`,
    title,
    status,
    code,
    ...(detail !== undefined && { detail }),
    ...(errors && { errors }),
  }
}

/** A failure with a code of the table. Thrown anywhere, answered as problem+json (RFC 9457). */
export class Problem extends Error {
  readonly code: ProblemCode
  readonly extras: ProblemExtras

  constructor(code: ProblemCode, detail?: string, extras: ProblemExtras = {}) {
    super(detail ?? problems[code].title, { cause: extras.cause })
    this.name = 'Problem'
    this.code = code
    this.extras = extras
  }

  get status(): number {
    return problems[this.code].status
  }

  toJSON(): ProblemObject {
    const detail = this.message === problems[this.code].title ? undefined : this.message
    const { errors, retryAfterS } = this.extras
    // It may quote what came.
    const shown = errors?.map(({ path, message }) => ({ path: redact(path), message: redact(message) }))
    return {
      ...problemObject(this.code, detail && redact(detail), shown),
      ...(retryAfterS !== undefined && { retry_after: retryAfterS }),
    }
  }
}

/**
 * Answers every error of the app, its 404s and its broken requests, as problem+json.
 *
 * @param count told of each
 */
export function registerProblemHandler(app: FastifyInstance, count: (problem: Problem) => void): void {
  app.setErrorHandler((error: FastifyError, request, reply) => {
    const problem = toProblem(error)
    count(problem)
    // A store that is away is reported once, by its connection; every request that finds it away is not news.
    const level = problem.code === 'internal' ? 'error' : 'debug'
    const { id: job_id } = (request.params ?? {}) as { readonly id?: string }
    const about = { code: problem.code, tenant: request.identity?.tenant, job_id }
    request.log[level]({ err: problem.cause ?? problem, ...about }, problem.message)
    return sendProblem(reply, problem)
  })
  app.setNotFoundHandler((request: FastifyRequest, reply) => {
    const problem = new Problem('no_such_route', `${request.method} ${request.url.split('?')[0]}`)
    count(problem)
    return sendProblem(reply, problem)
  })
}

export function sendProblem(reply: FastifyReply, problem: Problem): FastifyReply {
  const { retryAfterS, challenge } = problem.extras
  if (retryAfterS !== undefined) reply.header('retry-after', retryAfterS)
  if (challenge !== undefined) reply.header('www-authenticate', challenge)
  return reply.code(problem.status).type('application/problem+json').send(JSON.stringify(problem))
}

const ofFastify: Readonly<Record<string, ProblemCode>> = {
  FST_ERR_CTP_INVALID_MEDIA_TYPE: 'unsupported_media_type',
  FST_ERR_CTP_BODY_TOO_LARGE: 'payload_too_large',
  FST_ERR_CTP_EMPTY_JSON_BODY: 'malformed_json',
  FST_ERR_CTP_INVALID_JSON_BODY: 'malformed_json',
  FST_ERR_MAX_PARAM_LENGTH: 'no_such_route',
}

/** Turns whatever was thrown into a problem; what nobody foresaw is `internal` and keeps its cause. */
export function toProblem(error: unknown): Problem {
  if (error instanceof Problem) return error
  if (!(error instanceof Error)) return new Problem('internal', undefined, { cause: error })
  const { code, statusCode } = error as Partial<FastifyError>
  const known = code === undefined ? undefined : ofFastify[code]
  if (known) return new Problem(known, error.message, { cause: error })
  if (error instanceof SyntaxError && statusCode === 400) return new Problem('malformed_json', error.message)
  if (isStoreFailure(error)) return storeUnavailable(error)
  if (statusCode !== undefined && statusCode >= 400 && statusCode < 500) {
    return new Problem('malformed_request', error.message, { cause: error })
  }
  return new Problem('internal', undefined, { cause: error })
}

/** The problem of a body that does not match its schema: every violation, and the first of them in words. */
export function invalid(errors: readonly Violation[], cause?: unknown): Problem {
  const [first, ...others] = errors
  const more = others.length > 0 ? ` (and ${others.length} more)` : ''
  return new Problem('invalid', `${first?.path || 'the body'} ${first?.message}${more}`, { errors, cause })
}

export function storeUnavailable(cause: unknown): Problem {
  return new Problem('store_unavailable', 'Redis does not answer; try again shortly', {
    retryAfterS: 2,
    cause,
  })
}

const storeReplies =
  /^(OOM|LOADING|READONLY|MASTERDOWN|CLUSTERDOWN|MOVED|ASK|TRYAGAIN|BUSY|MISCONF|NOREPLICAS)\b/

/**
 * Whether an error says that Redis is away, full or not itself, rather than that we asked wrongly.
 * Names and prefixes: ioredis `errors/`, https://redis.io/docs/latest/develop/reference/protocol-spec/#simple-errors
 */
function isStoreFailure(error: Error): boolean {
  if (error.name === 'MaxRetriesPerRequestError' || error.name === 'ClusterAllFailedError') return true
  if (error.name === 'ReplicationError') return true
  if (error.name === 'ReplyError' || error.name === 'SimpleError') return storeReplies.test(error.message)
  const code = (error as NodeJS.ErrnoException).code
  return (
    /Connection is closed|Command aborted due to connection close|Too many Cluster redirections|Cluster isn't ready|Cluster is ended|Stream isn't writeable|Command timed out|Connection not ready/i.test(
      error.message,
    ) ||
    (code !== undefined && /^(ECONNREFUSED|ECONNRESET|EPIPE|ENOENT|ETIMEDOUT|EHOSTUNREACH)$/.test(code))
  )
}
