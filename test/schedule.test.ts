import { equal, ok } from 'node:assert'
import * as fc from 'fast-check'
import t from 'tap'
import { parseSchedule, patienceOf, waitAfter } from '../src/deliver/schedule.ts'
import type { WebhookOutcome } from '../src/deliver/webhook-outcome.ts'
import { runs } from './properties/runs.ts'

const DAY_MS = 86_400_000
const MINUTE_MS = 60_000

const step = fc.integer({ min: 1, max: DAY_MS })
const schedules = fc.array(step, { minLength: 1, maxLength: 50 })
/** A schedule and how many tries were made before this one, fewer than it has waits. */
const begun = schedules.chain((schedule) =>
  fc.record({ schedule: fc.constant(schedule), attempts: fc.nat({ max: schedule.length - 1 }) }),
)
const refusal = fc.constantFrom<WebhookOutcome>(
  { status: 'failed', reason: 'network', error: 'no', durationMs: 1 },
  { status: 'failed', reason: 'tls', error: 'no', durationMs: 1 },
  { status: 'failed', reason: 'redirect', error: 'no', statusCode: 301, durationMs: 1 },
  answered(503),
  answered(404),
)
const timeout: WebhookOutcome = { status: 'failed', reason: 'timeout', error: 'late', durationMs: 15_000 }

t.test('a schedule is a list of waits with units', async (t) => {
  const good: [string, readonly number[]][] = [
    [
      '5s,30s,2m,10m,1h,3h,8h,24h',
      [5_000, 30_000, 120_000, 600_000, 3_600_000, 10_800_000, 28_800_000, DAY_MS],
    ],
    ['1ms', [1]],
    [' 100ms , 1d ', [100, DAY_MS]],
    ['86400000ms,86400s,1440m', [DAY_MS, DAY_MS, DAY_MS]],
    [Array(50).fill('1s').join(), Array(50).fill(1_000)],
  ]
  for (const [text, waits] of good) t.strictSame(parseSchedule(text), waits, text)
})

t.test('what is no schedule is refused, with what was expected', async (t) => {
  const bad = [
    '',
    '5',
    's',
    '5s,',
    ',5s',
    '5s;6s',
    '0s',
    '-1s',
    '1.5s',
    '1e3s',
    '5 s',
    '5S',
    '25h',
    '2d',
    '86400001ms',
  ]
  for (const text of bad) {
    const step = text.split(',').find((each) => !/^[1-9]\d*s$/.test(each)) ?? ''
    const message = `Expected waits of up to 24h, e.g. 5s,30s,2m,1h, got "${step}"`
    t.throws(() => parseSchedule(text), { message }, text)
  }
  t.throws(() => parseSchedule(Array(51).fill('1s').join()), { message: 'Expected at most 50 waits, got 51' })
})

t.test('after a failure the wait is the schedule’s step ± 20 %', async () => {
  const property = fc.property(begun, refusal, ({ schedule, attempts }, outcome) => {
    const step = schedule[attempts] ?? NaN
    const wait = waitAfter(schedule, attempts, outcome) ?? NaN
    // Rounded to whole milliseconds.
    ok(wait >= 0.8 * step - 0.5 && wait <= 1.2 * step + 0.5, `${wait} ms for ${step} ms`)
    ok(Number.isInteger(wait))
  })
  fc.assert(property, runs(1_000))
})

t.test('the waits of many are spread over all of the ± 20 %', async (t) => {
  const waits = Array.from({ length: 2_000 }, () => waitAfter([10_000], 0, answered(500)) ?? NaN)
  t.ok(Math.min(...waits) < 8_200 && Math.max(...waits) > 11_800)
})

t.test('a receiver’s Retry-After makes the wait longer, up to twice the step and a day', async () => {
  const asked = fc.integer({ min: 0, max: 3 * DAY_MS })
  const property = fc.property(begun, asked, ({ schedule, attempts }, retryAfterMs) => {
    const step = schedule[attempts] ?? NaN
    const wait = waitAfter(schedule, attempts, { ...answered(503), retryAfterMs }) ?? NaN
    ok(wait >= step && wait <= 2 * step && wait <= DAY_MS, `${wait} ms for ${step} ms`)
    if (retryAfterMs >= step && retryAfterMs <= Math.min(2 * step, DAY_MS)) equal(wait, retryAfterMs)
  })
  fc.assert(property, runs(1_000))
})

t.test('after no answer in time, and after 429, it is a minute at least', async () => {
  const busy = fc.constantFrom(timeout, answered(429), { ...answered(429), retryAfterMs: 0 })
  const property = fc.property(begun, busy, ({ schedule, attempts }, outcome) => {
    const step = schedule[attempts] ?? NaN
    const wait = waitAfter(schedule, attempts, outcome) ?? NaN
    ok(wait >= MINUTE_MS && wait >= 0.8 * step - 0.5, `${wait} ms for ${step} ms`)
    ok(wait <= Math.max(MINUTE_MS, 1.2 * step + 0.5), `${wait} ms for ${step} ms`)
  })
  fc.assert(property, runs(1_000))
})

t.test('after the last try there is no other', async () => {
  const any = fc.oneof(refusal, fc.constant(timeout), fc.constant({ ...answered(503), retryAfterMs: 1 }))
  const property = fc.property(schedules, fc.nat({ max: 10 }), any, (schedule, more, outcome) => {
    equal(waitAfter(schedule, schedule.length + more, outcome), null)
    ok(waitAfter(schedule, schedule.length - 1, outcome) !== null)
  })
  fc.assert(property, runs(500))
})

t.test('a delivery waits for its circuit a day longer than all its tries could take', async (t) => {
  const property = fc.property(schedules, (schedule) => {
    const patience = patienceOf(schedule)
    const waits = schedule.map((_, attempts) => waitAfter(schedule, attempts, answered(500)) ?? NaN)
    const longest = waits.reduce((sum, wait) => sum + wait, 0)
    // Each wait is rounded by itself.
    ok(patience >= longest + DAY_MS - schedule.length, `${patience} ms for ${longest} ms`)
    ok(Number.isInteger(patience))
  })
  fc.assert(property, runs(500))
  t.equal(patienceOf([10_000, 20_000]), 36_000 + DAY_MS)
})

function answered(statusCode: number) {
  const error = `Expected a 2xx status, got ${statusCode}`
  return { status: 'failed', reason: 'http_status', error, statusCode, durationMs: 1 } as const
}
