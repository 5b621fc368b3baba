import type { IncomingHttpHeaders } from 'node:http'
import type { Dispatcher } from 'undici'
import { sign } from './signature.ts'

/**
 * How one try ended: `durationMs` is all of it, `error` is for the delivery's record. `gone` and `blocked` end a
 * delivery; `failed` may be tried again, where there is a `retryAfterMs` not before that.
 */
export type WebhookOutcome = Ending & { durationMs: number }

type Ending =
  | { status: 'delivered'; statusCode: number }
  | { status: 'gone'; statusCode: 410 }
  | { status: 'blocked'; error: string }
  | { status: 'failed'; reason: 'timeout' | 'network'; error: string }
  | { status: 'failed'; reason: 'redirect'; error: string; statusCode: number }
  | { status: 'failed'; reason: 'http_status'; error: string; statusCode: number; retryAfterMs?: number }

/** One try: `id` is the `webhook-id`, `body` the event's JSON text, `now` the time in ms since the epoch. */
export interface WebhookTry {
  url: string
  id: string
  body: string
  now?: number
}

/** What undici says when the fault is ours: a closed dispatcher, a header that cannot be sent. */
const OWN_FAULTS = ['UND_ERR_CLOSED', 'UND_ERR_DESTROYED', 'UND_ERR_INVALID_ARG']

/**
 * Makes what sends webhooks (Standard Webhooks; docs/PROTOCOL.md "Webhook"). The status line decides: an answer that
 * then trickles, resets or never ends changes nothing.
 *
 * @param options.dispatcher makes the connections, and decides which are allowed and how long they may take
 * @param options.secrets the keys to sign with, at least one
 * @param options.timeoutMs bounds a try from the first lookup to the answer's last byte
 * @param options.maxAnswerBytes how much of an answer is read; the connection of a longer one is destroyed
 * @param options.userAgent the `user-agent` header
 * @returns `send`, which resolves for whatever a receiver does, and rejects only for a fault of the gateway's own,
 *   such as a closed dispatcher
 * @throws an Error when there is no secret
 */
export function createWebhookSender(options: {
  dispatcher: Dispatcher
  secrets: readonly Buffer[]
  userAgent: string
  timeoutMs?: number
  maxAnswerBytes?: number
}): { send: (message: WebhookTry) => Promise<WebhookOutcome> } {
  const { dispatcher, secrets, userAgent, timeoutMs = 15_000, maxAnswerBytes = 65_536 } = options
  if (secrets.length === 0) throw new Error('Expected at least one secret to sign webhooks with, got none')

  /** No accept-encoding: a compressed answer would be inflated by nobody, and is of no use. */
  function post(url: URL, { id, body, now }: Required<WebhookTry>, signal: AbortSignal) {
    const timestamp = Math.floor(now / 1_000)
    const headers = {
      'content-type': 'application/json',
      'user-agent': userAgent,
      'webhook-id': id,
      'webhook-timestamp': String(timestamp),
      'webhook-signature': sign(secrets, { id, timestamp, body }),
    }
    const path = url.pathname + url.search
    return dispatcher.request({ method: 'POST', origin: url.origin, path, headers, body, signal })
  }

  async function attempt(message: Required<WebhookTry>): Promise<Ending> {
    const url = URL.canParse(message.url) ? new URL(message.url) : undefined
    if (url?.protocol !== 'http:' && url?.protocol !== 'https:') {
      return { status: 'blocked', error: `Expected an http or https URL, got ${url?.protocol ?? 'no URL'}` }
    }
    const deadline = startDeadline(timeoutMs)
    try {
      // The race, as undici hears of an abort only once it is connected.
      const request = post(url, message, deadline.signal)
      const { statusCode, headers, body } = await Promise.race([request, deadline.passed])
      await body.dump({ limit: maxAnswerBytes })
      return judgeAnswer(statusCode, headers, message.now)
    } catch (error) {
      if (!deadline.signal.aborted) return judgeError(error)
      const late = `Expected an answer within ${timeoutMs} ms, got none`
      return { status: 'failed', reason: 'timeout', error: late }
    } finally {
      deadline.cancel()
    }
  }

  async function send({ now = Date.now(), ...message }: WebhookTry): Promise<WebhookOutcome> {
    const startedAt = performance.now()
    const ending = await attempt({ ...message, now })
    return { ...ending, durationMs: Math.round(performance.now() - startedAt) }
  }

  return { send }
}

function judgeAnswer(statusCode: number, headers: IncomingHttpHeaders, now: number): Ending {
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

function judgeError(error: unknown): Ending {
  const { code = '' } = error as NodeJS.ErrnoException
  if (OWN_FAULTS.includes(code)) throw error
  const message = describe(error as Error)
  if (code === 'ADDRESS_BLOCKED') return { status: 'blocked', error: message }
  const isTimeout = code === 'UND_ERR_CONNECT_TIMEOUT' || code === 'ETIMEDOUT'
  return { status: 'failed', reason: isTimeout ? 'timeout' : 'network', error: message }
}

/** Seconds or any of the three date forms (RFC 9110 sections 10.2.3 and 5.6.7), in ms from `now`, never negative. */
function parseRetryAfter(value: string | string[] | undefined, now: number): number | undefined {
  if (typeof value !== 'string') return undefined
  if (/^\d{1,9}$/.test(value)) return Number(value) * 1_000
  // Date.parse alone takes almost anything, and the oldest form, which has no zone, for local time.
  if (!/^(Mon|Tue|Wed|Thu|Fri|Sat|Sun)/.test(value)) return undefined
  const date = Date.parse(value.endsWith(' GMT') ? value : `${value} GMT`)
  return Number.isNaN(date) ? undefined : Math.max(0, date - now)
}

/** A host with several addresses fails with one error for each, and no message of its own. */
function describe(error: Error): string {
  if (error instanceof AggregateError) return error.errors.map(describe).join('; ')
  return error.message
}

function startDeadline(timeoutMs: number) {
  const controller = new AbortController()
  const timer = setTimeout(() => controller.abort(), timeoutMs)
  const passed = new Promise<never>((_, reject) => {
    controller.signal.addEventListener('abort', () => reject(controller.signal.reason))
  })
  return { signal: controller.signal, passed, cancel: () => clearTimeout(timer) }
}
