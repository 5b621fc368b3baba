import type { Claim, Settlement, Try } from '../store/deliveries.ts'
import { waitAfter, type Schedule } from './schedule.ts'
import type { WebhookOutcome } from './webhook-outcome.ts'

/** How soon a try is made again that failed for want of the proxy. */
const PROXY_WAIT_MS = 30_000

/**
 * What follows from how a try ended: docs/WEBHOOKS.md "What becomes of a try".
 *
 * @param at when it was begun, in milliseconds since the epoch
 */
export function settlementOf(
  schedule: Schedule,
  claim: Claim,
  outcome: WebhookOutcome,
  at: number,
): Settlement {
  const origin = healthOf(outcome)
  const record = (kind: Try['outcome']) => recordOf(claim, outcome, at, kind)
  if (outcome.status === 'delivered') return { ending: 'delivered', origin, record: record('delivered') }
  if (outcome.status === 'gone') return { ending: 'gone', origin, record: record('dead') }
  if (outcome.status === 'blocked') return { ending: 'dead', origin, record: record('dead') }

  const ended = at + outcome.durationMs
  if ('unsent' in outcome) {
    return { ending: 'postponed', at: ended + PROXY_WAIT_MS, origin, record: record('failed') }
  }
  // One by hand is one try, whatever the schedule has left.
  const wait = claim.isRedelivery ? null : waitAfter(schedule, claim.attempts, outcome)
  if (wait === null) return { ending: 'dead', origin, record: record('dead') }
  return { ending: 'retry', at: ended + wait, origin, record: record('failed') }
}

/** What follows for an event that cannot be tried, or not any more. */
export function givenUp(claim: Claim, reason: string, error: string, at: number): Settlement {
  const record = { ...recordOf(claim, { durationMs: 0 }, at, 'dead'), reason, error }
  return { ending: 'dead', origin: 'unknown', record }
}

/** What follows for a try under which the gateway was shut down: another node makes it again, and it counts for nothing. */
export function cutOff(claim: Claim, at: number): Settlement {
  const error = 'The gateway was shut down under the try'
  const record = { ...recordOf(claim, { durationMs: 0 }, at, 'failed'), reason: 'closing', error }
  return { ending: 'postponed', origin: 'unknown', record }
}

function recordOf(
  { event, isRedelivery }: Claim,
  ended: WebhookOutcome | { readonly durationMs: number },
  at: number,
  outcome: Try['outcome'],
): Try {
  return {
    type: event?.type ?? '',
    at,
    durationMs: ended.durationMs,
    outcome,
    statusCode: 'statusCode' in ended ? ended.statusCode : null,
    reason: reasonOf(ended),
    error: 'error' in ended ? ended.error : null,
    isRedelivery,
  }
}

function reasonOf(ended: WebhookOutcome | object): string | null {
  if ('reason' in ended) return ended.reason
  return 'status' in ended && ended.status !== 'delivered' ? ended.status : null
}

/** Any answer shows that the origin is there, but for those that say that it is not well. */
function healthOf(outcome: WebhookOutcome): Settlement['origin'] {
  if ('statusCode' in outcome) return outcome.statusCode >= 500 ? 'down' : 'up'
  if (outcome.status === 'blocked') return 'unknown'
  return outcome.reason === 'proxy' || outcome.reason === 'no_key' ? 'unknown' : 'down'
}
