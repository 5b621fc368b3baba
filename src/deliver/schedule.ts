import type { WebhookOutcome } from './send-webhook.ts'

const JITTER = 0.2
/** A receiver that did not answer in time, or has said that it is too much, is left in peace for so long. */
const PEACE_MS = 60_000
const LONGEST_MS = 86_400_000
const MAX_STEPS = 50

const units: Readonly<Record<string, number>> = {
  ms: 1,
  s: 1_000,
  m: 60_000,
  h: 3_600_000,
  d: 86_400_000,
}

/** The waits between the tries of a delivery, in milliseconds. The first try is at once; after the last it is dead. */
export type Schedule = readonly number[]

/**
 * Reads waits such as `5s,30s,2m,10m,1h`.
 *
 * @param text comma-separated, each a whole number and a unit: `ms`, `s`, `m`, `h` or `d`; at most a day each
 * @throws an Error that says what was expected
 */
export function parseSchedule(text: string): Schedule {
  const steps = text.split(',').map((step) => {
    const [, count = '', unit = ''] = /^(\d{1,9})(ms|s|m|h|d)$/.exec(step.trim()) ?? []
    const ms = Number(count) * (units[unit] ?? NaN)
    if (ms > 0 && ms <= LONGEST_MS) return ms
    throw new Error(`Expected waits of up to 24h, e.g. 5s,30s,2m,1h, got "${step}"`)
  })
  if (steps.length > MAX_STEPS) throw new Error(`Expected at most ${MAX_STEPS} waits, got ${steps.length}`)
  return Object.freeze(steps)
}

/**
 * How long to wait after a try that failed (docs/PROTOCOL.md "Webhook"): the schedule's step, ± 20 %; where the
 * receiver asked for another wait, that, but no less than the step and no more than twice it.
 *
 * @param attempts tries made before this one
 * @returns milliseconds, or null when it was the last
 */
export function waitAfter(schedule: Schedule, attempts: number, outcome: WebhookOutcome): number | null {
  const step = schedule[attempts]
  if (step === undefined) return null
  const asked = 'retryAfterMs' in outcome ? outcome.retryAfterMs : undefined
  const wait =
    asked === undefined
      ? step * (1 - JITTER + 2 * JITTER * Math.random())
      : Math.min(Math.max(asked, step), 2 * step, LONGEST_MS)
  return Math.round(needsPeace(outcome) ? Math.max(wait, PEACE_MS) : wait)
}

/** How long a delivery waits for an origin whose circuit is open: a day more than its tries would have taken. */
export function patienceOf(schedule: Schedule): number {
  return Math.round(schedule.reduce((sum, step) => sum + step, 0) * (1 + JITTER)) + LONGEST_MS
}

function needsPeace(outcome: WebhookOutcome): boolean {
  if (outcome.status !== 'failed') return false
  return outcome.reason === 'timeout' || ('statusCode' in outcome && outcome.statusCode === 429)
}
