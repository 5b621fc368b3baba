import type { IncomingHttpHeaders } from 'node:http'
import { parseRetryAfter } from '../retry-after.ts'
import { isOfOpenSsl, tlsError } from './connect-error.ts'

/**
 * Why a try failed. `timeout`: no connection, or no status line, in time. `network`: no address, no connection, cut off,
 * or an answer that is no HTTP. `tls`: no TLS agreed upon, or a certificate that is not trusted. `proxy`: of the
 * gateway's own forward proxy, not of the receiver. `no_key`: nothing was sent, as the tenant has no key to sign with.
 */
export type FailureReason = Extract<WebhookEnding, { status: 'failed' }>['reason']

/**
 * How one try ended: `durationMs` is all of it, `error` is for the delivery's record: at most 300 characters, and
 * nothing of what a receiver sent but the names in its certificate. `gone` and `blocked` end a delivery; `failed`
 * may be tried again, where there is a `retryAfterMs` not before that. `unsent` says that the proxy serves nobody just
 * now: the try says nothing of the receiver.
 */
export type WebhookOutcome = WebhookEnding & { durationMs: number }

export type WebhookEnding =
  | { status: 'delivered'; statusCode: number }
  | { status: 'gone'; statusCode: 410 }
  | { status: 'blocked'; error: string }
  | { status: 'failed'; reason: 'timeout' | 'network' | 'tls' | 'no_key'; error: string }
  | { status: 'failed'; reason: 'proxy'; error: string; unsent?: true }
  | { status: 'failed'; reason: 'redirect'; error: string; statusCode: number }
  | { status: 'failed'; reason: 'http_status'; error: string; statusCode: number; retryAfterMs?: number }

const MAX_ERROR_CHARACTERS = 300

/** What undici says when the fault is ours: a closed dispatcher, a header that cannot be sent. */
const OWN_FAULTS = ['UND_ERR_CLOSED', 'UND_ERR_DESTROYED', 'UND_ERR_INVALID_ARG']

/** How a try ended that was answered. `now` is what a date in `Retry-After` is counted from. */
export function judgeAnswer(statusCode: number, headers: IncomingHttpHeaders, now: number): WebhookEnding {
  if (statusCode >= 200 && statusCode < 300) return { status: 'delivered', statusCode }
  if (statusCode === 410) return { status: 'gone', statusCode }
  const error = `Expected a 2xx status, got ${statusCode}`
  if (statusCode < 400) {
    return { status: 'failed', reason: 'redirect', statusCode, error: `${error}; redirects are not followed` }
  }
  const failed = { status: 'failed', reason: 'http_status', statusCode, error } as const
  const retryAfterMs = parseRetryAfter(headers['retry-after'], now)
  const isBusy = statusCode === 429 || statusCode === 503
  return isBusy && retryAfterMs !== undefined ? { ...failed, retryAfterMs } : failed
}

/**
 * How a try ended that was not answered.
 *
 * @throws the error itself where the fault is the gateway's own
 */
export function judgeError(thrown: unknown): WebhookEnding {
  const { code = '' } = thrown as NodeJS.ErrnoException
  if (OWN_FAULTS.includes(code)) throw thrown
  // After the handshake, such as when the receiver wants a certificate of ours.
  if (isOfOpenSsl(code)) return judgeError(tlsError(thrown as Error))
  const error = clip(describe(thrown as Error))
  const status = 'failed'
  switch (code) {
    case 'ADDRESS_BLOCKED':
      return { status: 'blocked', error }
    case 'PROXY_UNUSABLE':
      return { status, reason: 'proxy', error, unsent: true }
    case 'PROXY_REFUSED':
      return { status, reason: 'proxy', error }
    case 'TLS_FAILED':
      return { status, reason: 'tls', error }
    case 'CONNECT_TIMEOUT':
    case 'ETIMEDOUT':
      return { status, reason: 'timeout', error }
    default:
      return { status, reason: 'network', error }
  }
}

/** A host with several addresses fails with one error for each, and no message of its own. */
function describe(error: Error): string {
  if (error instanceof AggregateError) return error.errors.map(describe).join('; ')
  return error.message
}

function clip(text: string): string {
  return text.length > MAX_ERROR_CHARACTERS ? `${text.slice(0, MAX_ERROR_CHARACTERS - 3)}...` : text
}
