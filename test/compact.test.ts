import { deepStrictEqual, equal } from 'node:assert'
import * as fc from 'fast-check'
import t from 'tap'
import { advance, draftOf, type Outcome } from '../src/advance.ts'
import { packEvent, packRecord, unpackEvent, unpackRecord } from '../src/store/redis/compact.ts'
import type { JobRecord } from '../src/messages.ts'
import { outcome } from './properties/commands.ts'
import { runs } from './properties/runs.ts'
import { newJob } from './store-contract/jobs.ts'

const text = fc.string({ unit: 'binary' })
const job = fc
  .record({
    type: text,
    tenant: text,
    metadata: fc.dictionary(text, text, { noNullPrototype: true }),
    priority: fc.nat(),
    createdAt: fc.integer({ min: 0, max: 4e12 }),
  })
  .map((fields) => newJob({ ...fields, updatedAt: fields.createdAt, notBefore: fields.createdAt + 5 }))

t.test('whatever a job goes through, its record and its events come back to the byte', (t) => {
  const property = fc.property(job, fc.array(outcome, { maxLength: 12 }), ({ record, event }, told) => {
    const { record: last, events } = through(record, told)
    deepStrictEqual(unpackRecord(last.id, packRecord(last)), last)
    for (const [index, each] of [event, ...events].entries()) {
      equal(unpackEvent(last, index + 1, packEvent(last, index + 1, each)), each)
    }
  })
  fc.assert(property, runs(500))
  t.pass()
  t.end()
})

t.test('what is no event of the job, or at another place of its journal, is kept as it is', (t) => {
  const { record, event } = newJob()
  const { record: last, events } = through(record, [{ kind: 'completed', queue: 'a', result: '{"é":1}' }])
  const end = events[0] ?? ''
  const others = [
    [1, event.replace('"status":"queued"', '"status":"other"')],
    [1, event.replace('"seq":1,"metadata"', '"seq":7,"metadata"')],
    [3, event],
    [2, end.replace('"error":null', '"error": null')],
    [2, end.replace(/"timestamp":"[^"]+"/, '"timestamp":"yesterday"')],
    [2, end.replace('Z",', '+00:00",')],
    [1, `${event.slice(0, -1)} }`],
    [2, 'not an event'],
    [2, ''],
  ] as const
  for (const [seq, other] of others) {
    if (seq !== 1) t.equal(packEvent(last, seq, other), other)
    t.equal(unpackEvent(last, seq, packEvent(last, seq, other)), other)
  }
  t.equal(packEvent(record, 1, `${event.slice(0, -1)} }`), `${event.slice(0, -1)} }`)
  t.end()
})

t.test('of a finished job little is kept', (t) => {
  const { record, event } = newJob({ type: 'echo', route: ['echo'] })
  const { record: last, events } = through(record, [
    { kind: 'started', queue: 'echo' },
    { kind: 'completed', queue: 'echo', result: '{"hello":"world"}' },
  ])
  const sizes = [event, ...events].map((each, index) => packEvent(last, index + 1, each).length)
  t.ok(packRecord(last).length <= 160, `record: ${packRecord(last).length}`)
  t.ok(Math.max(...sizes) <= 80, `events: ${sizes.join(', ')}`)
  t.end()
})

function through(record: JobRecord, told: readonly Outcome[]): { record: JobRecord; events: string[] } {
  const draft = draftOf({ record, version: 1, input: null })
  for (const [index, each] of told.entries()) advance(draft, each, record.createdAt + index)
  return draft
}

t.test('records of version 0.1.0 can still be read', (t) => {
  const { record } = newJob()
  deepStrictEqual(unpackRecord(record.id, JSON.stringify(record)), record)
  t.pass()
  t.end()
})
