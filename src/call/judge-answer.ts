import { STATUS_CODES, type IncomingHttpHeaders } from 'node:http'
import { failureReason } from '../failure.ts'
import { parseRetryAfter } from '../retry-after.ts'

/** A wait that a service asks for is kept to, up to this. */
const LONGEST_WAIT_MS = 3_600_000

/**
 * What came of a call. `result` is JSON text. A `refused` one is not made again, as it would be refused again; a `failed`
 * one may be. `reason` is for the client: it names no address. `isDown`: it says that the service as a whole fails.
 */
export type Answer =
  | { readonly status: 'done'; readonly result: string }
  | { readonly status: 'refused'; readonly reason: string }
  | {
      readonly status: 'failed'
      readonly reason: string
      readonly isDown: boolean
      readonly retryAfterMs?: number
    }

/** What a service answered. `now` is what a date in `Retry-After` is counted from. */
export function judgeAnswer(
  statusCode: number,
  headers: IncomingHttpHeaders,
  body: Buffer,
  now: number,
): Answer {
  if (statusCode >= 200 && statusCode < 300) return judgeResult(body)
  const reason = reasonOf(statusCode, headers, body)
  const retryAfterMs = parseRetryAfter(headers['retry-after'], now)
  if (!isWorthAnotherTry(statusCode, retryAfterMs)) return { status: 'refused', reason }
  const failed = { status: 'failed', reason, isDown: statusCode >= 500 } as const
  return retryAfterMs === undefined
    ? failed
    : { ...failed, retryAfterMs: Math.min(retryAfterMs, LONGEST_WAIT_MS) }
}

/** What kept a service from answering: an error of undici or of Node.js. Their messages would tell addresses. */
export function judgeError(thrown: unknown): Answer {
  const { code = '', name } = thrown as NodeJS.ErrnoException
  if (code === 'UND_ERR_RES_EXCEEDED_MAX_SIZE')
    return { status: 'refused', reason: 'Expected a smaller answer, got one that is too large' }
  return {
    status: 'failed',
    reason: `Expected an answer, got ${failures[code || name] ?? code}`,
    isDown: true,
  }
}

/** What is behind the codes and names of undici that say little. */
const failures: Readonly<Record<string, string>> = {
  UND_ERR_SOCKET: 'the end of the connection',
  HTTPParserError: 'something that is no HTTP',
}

/** The text is the result as it came (invariant 9); that it is JSON is looked at here, once. */
function judgeResult(body: Buffer): Answer {
  try {
    const text = new TextDecoder('utf-8', { fatal: true }).decode(body)
    if (text.trim() === '') return { status: 'done', result: 'null' }
    JSON.parse(text)
    return { status: 'done', result: text }
  } catch {
    return { status: 'refused', reason: 'Expected JSON in UTF-8 as the result, got something else' }
  }
}

/** 409 is what a service says of an idempotency key that it is still busy with, if it says when to come back. */
function isWorthAnotherTry(statusCode: number, retryAfterMs: number | undefined): boolean {
  if (statusCode === 409) return retryAfterMs !== undefined
  return statusCode >= 500 || statusCode === 408 || statusCode === 425 || statusCode === 429
}

/** The service's own problem object, or one that says no more than the status does. */
function reasonOf(statusCode: number, headers: IncomingHttpHeaders, body: Buffer): string {
  const title = STATUS_CODES[statusCode] ?? 'Unknown status'
  const detail = `Expected a 2xx status, got ${statusCode}`
  const given = isProblem(headers) ? parsed(body) : null
  const own = given && {
    ...given,
    title: typeof given['title'] === 'string' ? given['title'] : title,
    status: given['status'] ?? statusCode,
  }
  const ours = { title, status: statusCode, detail }
  return failureReason(own ?? ours) ?? failureReason(ours) ?? detail
}

function isProblem(headers: IncomingHttpHeaders): boolean {
  return /^application\/problem\+json\s*(;|$)/i.test(headers['content-type'] ?? '')
}

function parsed(body: Buffer): Record<string, unknown> | null {
  try {
    const value: unknown = JSON.parse(body.toString())
    return typeof value === 'object' && value !== null && !Array.isArray(value)
      ? (value as Record<string, unknown>)
      : null
  } catch {
    return null
  }
}
