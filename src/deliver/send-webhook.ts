import type { Dispatcher } from 'undici'
import { sign, type SigningKeys } from './signature.ts'
import { judgeAnswer, judgeError, type WebhookEnding, type WebhookOutcome } from './webhook-outcome.ts'

export type { FailureReason, WebhookOutcome } from './webhook-outcome.ts'

/**
 * One try: `tenant` is whose keys sign it, `id` the `webhook-id`, `body` the event's JSON text, `now` the time in ms since
 * the epoch.
 */
export interface WebhookTry {
  tenant: string
  url: string
  id: string
  body: string
  now?: number
}

/**
 * Makes what sends webhooks (Standard Webhooks; docs/PROTOCOL.md "Webhook"). The status line decides: an answer that
 * then trickles, resets or never ends changes nothing.
 *
 * @param options.dispatcher makes the connections, and decides which are allowed, how long they may take and how much
 *   of an answer is read
 * @param options.keys the keys to sign with
 * @param options.timeoutMs bounds a try from the first lookup to the answer's last byte
 * @param options.userAgent the `user-agent` header
 * @returns `send`, which resolves for whatever a receiver does, and rejects only for a fault of the gateway's own,
 *   such as a closed dispatcher
 */
export function createWebhookSender(options: {
  dispatcher: Dispatcher
  keys: SigningKeys
  userAgent: string
  timeoutMs?: number
}): { send: (message: WebhookTry) => Promise<WebhookOutcome> } {
  const { dispatcher, keys, userAgent, timeoutMs = 15_000 } = options

  /** No accept-encoding: a compressed answer would be inflated by nobody, and is of no use. */
  function post(url: URL, { tenant, id, body, now }: Required<WebhookTry>, signal: AbortSignal) {
    const timestamp = Math.floor(now / 1_000)
    const headers = {
      'content-type': 'application/json',
      'user-agent': userAgent,
      'webhook-id': id,
      'webhook-timestamp': String(timestamp),
      'webhook-signature': sign(keys.of(tenant), { id, timestamp, body }),
    }
    const path = url.pathname + url.search
    return dispatcher.request({ method: 'POST', origin: url.origin, path, headers, body, signal })
  }

  async function attempt(message: Required<WebhookTry>): Promise<WebhookEnding> {
    const url = URL.canParse(message.url) ? new URL(message.url) : undefined
    if (url?.protocol !== 'http:' && url?.protocol !== 'https:') {
      return { status: 'blocked', error: `Expected an http or https URL, got ${url?.protocol ?? 'no URL'}` }
    }
    if (keys.of(message.tenant).length === 0) {
      return {
        status: 'failed',
        reason: 'no_key',
        error: 'Expected a key to sign with, got none for this tenant',
      }
    }
    const deadline = startDeadline(timeoutMs)
    try {
      // The race, as undici hears of an abort only once it is connected.
      const request = post(url, message, deadline.signal)
      const { statusCode, headers, body } = await Promise.race([request, deadline.passed])
      await body.dump()
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

function startDeadline(timeoutMs: number) {
  const controller = new AbortController()
  const timer = setTimeout(() => controller.abort(), timeoutMs)
  const passed = new Promise<never>((_, reject) => {
    controller.signal.addEventListener('abort', () => reject(controller.signal.reason))
  })
  return { signal: controller.signal, passed, cancel: () => clearTimeout(timer) }
}
