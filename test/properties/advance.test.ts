import { deepStrictEqual, equal } from 'node:assert'
import * as fc from 'fast-check'
import t from 'tap'
import { advance, changeOf, draftOf, type Outcome } from '../../src/advance.ts'
import { dataOf } from '../../src/job.ts'
import { isTerminal, toEvent } from '../../src/messages.ts'
import { newJob } from '../store-contract/jobs.ts'
import { runs } from './runs.ts'

const queue = fc.constantFrom('a', 'b', 'c')
/** JSON as a worker may write it, line breaks and all. */
const json = fc
  .tuple(fc.jsonValue(), fc.nat({ max: 2 }))
  .map(([value, indent]) => JSON.stringify(value, null, indent))
const text = fc.oneof(json, fc.string())
const ending = fc.constantFrom('canceled' as const, 'expired' as const)

const outcome: fc.Arbitrary<Outcome> = fc.oneof(
  { weight: 3, arbitrary: fc.record({ kind: fc.constant('started' as const), queue }) },
  { weight: 3, arbitrary: fc.record({ kind: fc.constant('progress' as const), queue, data: text }) },
  {
    weight: 3,
    arbitrary: fc.record({
      kind: fc.constant('retrying' as const),
      queue,
      reason: fc.string(),
      delayMs: fc.integer(),
    }),
  },
  fc.record({ kind: fc.constant('completed' as const), queue, result: json }),
  fc.record({ kind: fc.constant('failed' as const), queue, reason: fc.string() }),
  fc.record({ kind: fc.constant('omitted' as const), queue, bytes: fc.nat() }),
  fc.record({ kind: fc.constant('oversized' as const), queue, bytes: fc.nat(), most: fc.nat() }),
  fc.record({ kind: fc.constant('removed' as const), queue }),
  fc.record({ kind: fc.constant('end_requested' as const), ending }),
  fc.record({ kind: fc.constant('canceling' as const) }),
  fc.record({ kind: fc.constant('ended' as const), ending }),
  fc.record({ kind: fc.constant('lost' as const), detail: fc.string() }),
)
const told = fc.array(fc.record({ outcome, at: fc.nat({ max: 2 ** 43 }) }), { maxLength: 40, size: 'max' })

t.test('whatever is told, the journal is 1..n, and its one terminal event the last (invariant 2)', (t) => {
  const property = fc.property(told, (told) => {
    const job = newJob({ route: ['a', 'b'], createdAt: 0, updatedAt: 0 })
    const draft = draftOf({ record: job.record, version: 1, input: job.input })
    for (const { outcome, at } of told) advance(draft, outcome, at)
    const texts = [job.event, ...draft.events]
    const events = texts.map(toEvent)
    deepStrictEqual(
      events.map(({ seq }) => seq),
      events.map((_, index) => index + 1),
    )
    equal(draft.record.seq, events.length)
    const ends = events.flatMap(({ terminal }, index) => (terminal ? [index] : []))
    deepStrictEqual(ends, isTerminal(draft.record.status) ? [events.length - 1] : [])
    const parsed = texts.map((each) => JSON.parse(each) as { timestamp: string; status: string })
    deepStrictEqual(
      parsed.map(({ timestamp }) => timestamp).toSorted(),
      parsed.map(({ timestamp }) => timestamp),
    )
    equal(parsed.at(-1)?.status, draft.record.status)
    equal(
      texts.some((each) => /[\r\n]/.test(each)),
      false,
    )
  })
  fc.assert(property, runs(1_000))
  t.pass()
  t.end()
})

t.test('once a job has ended, nothing that is told changes it', (t) => {
  const property = fc.property(told, told, (before, after) => {
    const { record, input } = newJob({ route: ['a', 'b'] })
    const draft = draftOf({ record, version: 1, input })
    for (const { outcome, at } of before) advance(draft, outcome, at)
    fc.pre(isTerminal(draft.record.status))
    const ended = structuredClone(changeOf(draft))
    for (const { outcome, at } of after) advance(draft, outcome, at)
    deepStrictEqual(changeOf(draft), ended)
    equal(draft.followUp.enqueue, false)
    const again = draftOf({ record: draft.record, version: 2, input: null })
    for (const { outcome, at } of after) advance(again, outcome, at)
    equal(again.touched, false)
  })
  fc.assert(property, runs(1_000))
  t.pass()
  t.end()
})

t.test('told in one batch or in many, the events are the same bytes', (t) => {
  const property = fc.property(told, fc.infiniteStream(fc.boolean()), (told, cuts) => {
    const job = newJob({ route: ['a', 'b'] })
    const stored = { record: job.record, version: 1, input: job.input }
    const whole = draftOf(stored)
    for (const { outcome, at } of told) advance(whole, outcome, at)
    let part = draftOf(stored)
    const events: string[] = []
    for (const { outcome, at } of told) {
      advance(part, outcome, at)
      if (!cuts.next().value) continue
      events.push(...part.events)
      // What is stored in between is text.
      const record = JSON.parse(JSON.stringify(part.record)) as typeof job.record
      part = draftOf({ record, version: part.version + 1, input: null })
    }
    deepStrictEqual([...events, ...part.events], whole.events)
    const last = whole.events.at(-1)
    if (isTerminal(whole.record.status) && last) equal(JSON.parse(dataOf(last)).status, whole.record.status)
  })
  fc.assert(property, runs(1_000))
  t.pass()
  t.end()
})
