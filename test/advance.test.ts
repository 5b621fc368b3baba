import t from 'tap'
import { advance, changeOf, draftOf, type Draft, type Outcome } from '../src/advance.ts'
import { dataOf, resultOf } from '../src/job.ts'
import { isTerminal, toEvent, type JobRecord } from '../src/messages.ts'
import { newJob, pick, randomOf } from './store-contract/jobs.ts'

const id = '0199a000-0000-7000-8000-000000000001'
const start = Date.UTC(2026, 0, 2, 3, 4, 5, 678)

t.test('a job of two steps tells its whole way', (t) => {
  const draft = draftAt({ route: ['a', 'b'], metadata: { customer: '42' } })
  tell(draft, { kind: 'started', queue: 'a' })
  tell(draft, { kind: 'progress', queue: 'a', data: '{"percent":40,"message":"packing"}' })
  tell(draft, { kind: 'completed', queue: 'a', result: '{"packed":true}' })
  t.equal(draft.input, '{"packed":true}')
  t.strictSame(draft.followUp, { enqueue: true, removeFrom: null })
  tell(draft, { kind: 'started', queue: 'b' })
  tell(draft, { kind: 'completed', queue: 'b', result: '"sent"' })

  const head = (seq: number, type: string, status = 'running') =>
    `{"seq":${seq},"type":"${type}","timestamp":"2026-01-02T03:04:${String(seq + 4).padStart(2, '0')}.678Z","job_id":"${id}","status":"${status}","data":`
  t.strictSame(draft.events, [
    head(2, 'step.started') + '{"step":"a","index":0,"attempt":1}}',
    head(3, 'job.progress') + '{"percent":40,"message":"packing"}}',
    head(4, 'step.completed') + '{"step":"a","index":0}}',
    head(5, 'step.started') + '{"step":"b","index":1,"attempt":1}}',
    head(6, 'job.completed', 'completed') +
      `{"job_id":"${id}","type":"test","status":"completed",` +
      '"step":{"name":"b","index":1,"count":2,"attempt":1},"progress":null,' +
      '"result":"sent","error":null,"seq":6,"metadata":{"customer":"42"},' +
      '"created_at":"2026-01-02T03:04:05.678Z","started_at":"2026-01-02T03:04:06.678Z",' +
      '"finished_at":"2026-01-02T03:04:10.678Z","expires_at":"2026-01-02T03:05:10.678Z",' +
      `"links":{"self":"/jobs/${id}","events":"/jobs/${id}/events","cancel":"/jobs/${id}/cancel"}}}`,
  ])
  t.equal(draft.input, null)
  t.strictSame(draft.followUp, { enqueue: false, removeFrom: null })
  t.strictSame(changeOf(draft), {
    version: 1,
    record: draft.record,
    events: draft.events,
    input: null,
  })
  t.end()
})

t.test('a change that leaves the input alone does not mention it', (t) => {
  const draft = draftAt({})
  tell(draft, { kind: 'progress', queue: 'a', data: '1' })
  t.notOk('input' in changeOf(draft))
  t.end()
})

t.test('a failed attempt is followed by another, and the last one fails the job', (t) => {
  const draft = draftAt({})
  tell(draft, { kind: 'started', queue: 'a' })
  tell(draft, { kind: 'progress', queue: 'a', data: '50' })
  tell(draft, { kind: 'retrying', queue: 'a', reason: 'say "please"\n', delayMs: 499.6 })
  t.match(draft.record, { status: 'running', active: false, attempt: 1, progress: { percent: 50 } })
  tell(draft, { kind: 'started', queue: 'a' })
  t.match(draft.record, { status: 'running', active: true, attempt: 2, progress: null })
  tell(draft, { kind: 'failed', queue: 'a', reason: 'no' })
  t.strictSame(dataOfType(draft, 'step.retrying'), [
    { step: 'a', index: 0, attempt: 1, reason: 'say "please"\n', delay_ms: 500 },
  ])
  t.strictSame(
    dataOfType(draft, 'step.started').map((data) => data['attempt']),
    [1, 2],
  )
  const error = {
    type: 'urn:quartet:problem:step_failed',
    title: 'A step failed',
    status: 500,
    code: 'step_failed',
    detail: 'no',
    step: 'a',
    index: 0,
    attempts: 2,
  }
  t.match(draft.record, { status: 'failed', active: false, error })
  t.match(dataOfType(draft, 'job.failed'), [{ status: 'failed', error, result: null, seq: 6 }])
  t.end()
})

t.test('a lost worker’s job starts again, and counts the attempt', (t) => {
  const draft = draftAt({})
  tell(draft, { kind: 'started', queue: 'a' })
  tell(draft, { kind: 'retrying', queue: 'a', reason: 'the worker was lost', delayMs: 0 })
  tell(draft, { kind: 'retrying', queue: 'a', reason: 'the worker was lost', delayMs: 0 })
  tell(draft, { kind: 'started', queue: 'a' })
  t.strictSame(typesOf(draft), ['step.started', 'step.retrying', 'step.started'])
  t.equal(draft.record.attempt, 2)
  t.end()
})

t.test('a wait that is over has no negative delay', (t) => {
  const draft = draftAt({ active: true })
  tell(draft, { kind: 'retrying', queue: 'a', reason: '', delayMs: -3 })
  t.match(dataOfType(draft, 'step.retrying'), [{ delay_ms: 0 }])
  t.end()
})

t.test('what is put off before a worker had it is not retried', (t) => {
  const draft = draftAt({})
  tell(draft, { kind: 'retrying', queue: 'a', reason: 'delayed', delayMs: 1_000 })
  t.strictSame(draft.events, [])
  t.notOk(draft.touched)
  t.end()
})

t.test('the time of an event never runs backwards', (t) => {
  const draft = draftAt({})
  advance(draft, { kind: 'started', queue: 'a' }, start + 50)
  advance(draft, { kind: 'progress', queue: 'a', data: '1' }, start + 20)
  advance(draft, { kind: 'progress', queue: 'a', data: '2' }, start + 70)
  t.strictSame(
    draft.events.map((text) => (JSON.parse(text) as { timestamp: string }).timestamp.slice(-4)),
    ['728Z', '728Z', '748Z'],
  )
  t.end()
})

t.test('a wish to end is kept until the job comes out of its queue', (t) => {
  const wish = { kind: 'end_requested', ending: 'canceled' } as const
  const late = { kind: 'end_requested', ending: 'expired' } as const
  const canceling = { kind: 'canceling' } as const
  const started = { kind: 'started', queue: 'a' } as const
  const retrying = { kind: 'retrying', queue: 'a', reason: 'no', delayMs: 9 } as const
  const failed = { kind: 'failed', queue: 'a', reason: 'no' } as const
  const removed = { kind: 'removed', queue: 'a' } as const
  const oversized = { kind: 'oversized', queue: 'a', bytes: 2, most: 1 } as const
  const completed = { kind: 'completed', queue: 'a', result: '1' } as const
  const ended = (ending: 'canceled' | 'expired') => ({ kind: 'ended', ending }) as const
  const lost = { kind: 'lost', detail: 'gone' } as const
  const cases: [route: string[], outcomes: Outcome[], types: string[]][] = [
    // asked while it waits
    [['a'], [wish], []],
    [['a'], [wish, removed], ['job.canceled']],
    [['a'], [late, removed], ['job.expired']],
    [['a'], [wish, ended('canceled')], ['job.canceled']],
    [['a'], [late, wish, removed], ['job.expired']],
    [['a'], [wish, late, removed], ['job.canceled']],
    [['a'], [ended('expired')], ['job.expired']],
    [['a'], [wish, lost], ['job.failed']],
    // a worker takes it all the same
    [['a'], [wish, started, canceling, completed], ['step.started', 'job.canceling', 'job.completed']],
    [['a'], [wish, started, failed], ['step.started', 'job.canceled']],
    [['a'], [wish, started, retrying], ['step.started', 'job.canceled']],
    // asked while a worker has it
    [['a'], [started, canceling, retrying], ['step.started', 'job.canceling', 'job.canceled']],
    [['a'], [started, canceling, failed], ['step.started', 'job.canceling', 'job.canceled']],
    [['a'], [started, canceling, canceling], ['step.started', 'job.canceling']],
    [['a'], [started, canceling, oversized], ['step.started', 'job.canceling', 'job.canceled']],
    [['a'], [started, canceling, removed], ['step.started', 'job.canceling', 'job.canceled']],
    [['a'], [started, late, failed], ['step.started', 'job.failed']],
    [['a'], [started, late, retrying], ['step.started', 'job.expired']],
    [
      ['a', 'b'],
      [started, canceling, completed],
      ['step.started', 'job.canceling', 'step.completed', 'job.canceled'],
    ],
    [
      ['a', 'b'],
      [started, late, completed],
      ['step.started', 'step.completed', 'job.expired'],
    ],
    // asked between two attempts, and between two steps
    [['a'], [started, retrying, wish, removed], ['step.started', 'step.retrying', 'job.canceled']],
    [
      ['a', 'b'],
      [started, completed, wish, { kind: 'removed', queue: 'b' }],
      ['step.started', 'step.completed', 'job.canceled'],
    ],
  ]
  for (const [route, outcomes, types] of cases) {
    const draft = draftAt({ route })
    for (const outcome of outcomes) tell(draft, outcome)
    const told = outcomes.map(({ kind }) => kind).join(', ')
    t.strictSame(typesOf(draft), types, `${route.length} steps: ${told}`)
    t.ok(draft.touched)
    const { status, ending, error } = draft.record
    if (status === 'canceled') t.equal(error, null)
    if (status === 'expired') t.equal(error?.code, 'deadline_exceeded')
    if (types.includes('job.canceling')) t.equal(ending, 'canceled')
  }
  t.end()
})

t.test('while it is being canceled, a job says so in every event', (t) => {
  const draft = draftAt({ active: true, status: 'running' })
  tell(draft, { kind: 'canceling' })
  tell(draft, { kind: 'progress', queue: 'a', data: '1' })
  tell(draft, { kind: 'started', queue: 'a' })
  t.strictSame(
    draft.events.map((text) => (JSON.parse(text) as { status: string }).status),
    ['canceling', 'canceling', 'canceling'],
  )
  t.end()
})

t.test('an attempt that a canceled job still waits for is taken out of the queue', (t) => {
  const draft = draftAt({ active: true, ending: 'canceled' })
  tell(draft, { kind: 'retrying', queue: 'a', reason: 'no', delayMs: 9 })
  t.strictSame(draft.followUp, { enqueue: false, removeFrom: 'a' })
  t.end()
})

t.test('a canceled job hands nothing to its next step', (t) => {
  const draft = draftAt({ route: ['a', 'b'], active: true, ending: 'canceled' })
  tell(draft, { kind: 'completed', queue: 'a', result: '1' })
  t.strictSame(draft.followUp, { enqueue: false, removeFrom: null })
  t.equal(draft.input, null)
  t.end()
})

t.test('a job that ends in the same batch as it went on hands nothing to its next step', (t) => {
  const draft = draftAt({ route: ['a', 'b'], active: true })
  tell(draft, { kind: 'completed', queue: 'a', result: '1' })
  tell(draft, { kind: 'ended', ending: 'expired' })
  t.strictSame(draft.followUp, { enqueue: false, removeFrom: null })
  t.equal(draft.input, null)
  t.end()
})

t.test('a job that somebody removes from its queue has failed', (t) => {
  const draft = draftAt({})
  tell(draft, { kind: 'removed', queue: 'a' })
  t.match(draft.record, { status: 'failed', error: { code: 'job_removed' } })
  t.end()
})

t.test('a job that its queue lost has failed, and says how', (t) => {
  const draft = draftAt({})
  tell(draft, { kind: 'lost', detail: 'nowhere to be found' })
  t.match(draft.record, { status: 'failed', error: { code: 'job_lost', detail: 'nowhere to be found' } })
  t.end()
})

const outcomes: Outcome[] = [
  { kind: 'started', queue: 'a' },
  { kind: 'progress', queue: 'a', data: '1' },
  { kind: 'retrying', queue: 'a', reason: '', delayMs: 1 },
  { kind: 'completed', queue: 'a', result: '1' },
  { kind: 'failed', queue: 'a', reason: '' },
  { kind: 'removed', queue: 'a' },
  { kind: 'end_requested', ending: 'canceled' },
  { kind: 'end_requested', ending: 'expired' },
  { kind: 'canceling' },
  { kind: 'ended', ending: 'canceled' },
  { kind: 'ended', ending: 'expired' },
  { kind: 'lost', detail: '' },
]

t.test('a job that has ended does not change, whatever is told of it', (t) => {
  for (const status of ['completed', 'failed', 'canceled', 'expired'] as const) {
    for (const outcome of outcomes) {
      const draft = draftAt({ status, active: true, seq: 9 })
      const before = structuredClone(draft)
      tell(draft, outcome)
      // What must not begin again leaves its queue; nothing else is left to do.
      before.followUp.removeFrom = outcome.kind === 'retrying' ? outcome.queue : null
      t.strictSame(draft, before, `${status}: ${outcome.kind}`)
    }
  }
  t.end()
})

t.test('what the queue of another step tells changes nothing', (t) => {
  for (const outcome of outcomes.filter((outcome) => 'queue' in outcome)) {
    const draft = draftAt({ route: ['before', 'a', 'after'], step: 1, active: true, ending: 'canceled' })
    const before = structuredClone(draft)
    tell(draft, { ...outcome, queue: 'before' })
    tell(draft, { ...outcome, queue: 'after' })
    tell(draft, { ...outcome, queue: '' })
    t.strictSame(draft, before, outcome.kind)
  }
  t.end()
})

t.test('a result travels as the text it came in (invariant 9)', (t) => {
  for (const result of [
    '{"n":12345678901234567890,"x":1.0}',
    '1.50',
    '-0.0',
    '1e400',
    '"\\u00e9 \u2028 \\/"',
    '{"a":1,"a":2}',
    '{ "spaced" : [ 1 , 2 ] }',
    '{"result":null,"error":null,"data":{}}',
    'null',
  ]) {
    const draft = draftAt({ route: ['a', 'b'], metadata: { result: '"result":null' } })
    tell(draft, { kind: 'completed', queue: 'a', result })
    t.equal(draft.input, result)
    tell(draft, { kind: 'completed', queue: 'b', result })
    const data = dataOf(draft.events.at(-1) ?? '')
    t.ok(data.includes(`,"result":${result},"error":null,`))
    t.equal(resultOf(draft.record, data), result)
  }
  t.end()
})

t.test('an event is one line, also when the JSON of a result or a progress has several', (t) => {
  const draft = draftAt({ route: ['a', 'b'] })
  tell(draft, { kind: 'progress', queue: 'a', data: '{\n  "percent": 1.50\r\n}' })
  tell(draft, { kind: 'progress', queue: 'a', data: '[\r1,\n\n2 ]' })
  tell(draft, { kind: 'completed', queue: 'a', result: '{\r\n "line\\nbreak": [\n1.0\n]\n}\n' })
  t.strictSame(JSON.parse(draft.input ?? ''), { 'line\nbreak': [1] })
  tell(draft, { kind: 'completed', queue: 'b', result: '{\n"n": 12345678901234567890\n}' })
  for (const text of draft.events) t.notMatch(text, /[\r\n]/)
  t.match(draft.events[0], '"data":{   "percent": 1.50 }}')
  t.match(draft.events.at(-1), '"result":{ "n": 12345678901234567890 },')
  t.strictSame(dataOfType(draft, 'job.progress'), [{ percent: 1.5 }, { output: [1, 2] }])
  t.end()
})

t.test('whatever a worker reports becomes a progress of the contract’s shape', (t) => {
  const cases: [data: string, text: string, progress: JobRecord['progress']][] = [
    ['40', '{"percent":40}', { percent: 40 }],
    ['0', '{"percent":0}', { percent: 0 }],
    ['100', '{"percent":100}', { percent: 100 }],
    ['33.330', '{"percent":33.330}', { percent: 33.33 }],
    ['101', '{"output":101}', null],
    ['-1', '{"output":-1}', null],
    ['12345678901234567890', '{"output":12345678901234567890}', null],
    ['{"percent":5}', '{"percent":5}', { percent: 5 }],
    ['{"percent":5.0, "message":"m"}', '{"percent":5.0, "message":"m"}', { percent: 5, message: 'm' }],
    ['{"message":""}', '{"message":""}', { message: '' }],
    ['{"output":{"n":1.0}}', '{"output":{"n":1.0}}', null],
    ['{"percent":5,"output":"to"}', '{"percent":5,"output":"to"}', { percent: 5 }],
    ['{"percent":"5"}', '{"output":{"percent":"5"}}', null],
    ['{"percent":500}', '{"output":{"percent":500}}', null],
    ['{"message":5}', '{"output":{"message":5}}', null],
    ['{"percent":5,"done":true}', '{"output":{"percent":5,"done":true}}', null],
    ['{"__proto__":{"percent":5}}', '{"output":{"__proto__":{"percent":5}}}', null],
    ['{}', '{"output":{}}', null],
    ['[]', '{"output":[]}', null],
    ['"a token"', '{"output":"a token"}', null],
    ['null', '{"output":null}', null],
    ['true', '{"output":true}', null],
    ['not "JSON"', '{"output":"not \\"JSON\\""}', null],
    ['{"percent":NaN}', '{"output":"{\\"percent\\":NaN}"}', null],
    ['', '{"output":""}', null],
  ]
  for (const [data, text, progress] of cases) {
    const draft = draftAt({ active: true })
    tell(draft, { kind: 'progress', queue: 'a', data })
    t.equal(dataOf(draft.events[0] ?? ''), text, data)
    t.strictSame(draft.record.progress, progress, data)
  }
  t.end()
})

t.test('a job shows the last percentage and the last message', (t) => {
  const draft = draftAt({ active: true })
  tell(draft, { kind: 'progress', queue: 'a', data: '{"percent":10,"message":"one"}' })
  tell(draft, { kind: 'progress', queue: 'a', data: '20' })
  tell(draft, { kind: 'progress', queue: 'a', data: '{"output":"token"}' })
  t.strictSame(draft.record.progress, { percent: 20, message: 'one' })
  tell(draft, { kind: 'progress', queue: 'a', data: '{"message":"two"}' })
  t.strictSame(draft.record.progress, { percent: 20, message: 'two' })
  t.end()
})

t.test('on any walk the journal is numbered without holes and ends once (invariant 2)', (t) => {
  for (let seed = 1; seed <= 2_000; seed++) {
    const fault = walk(seed)
    if (fault !== null) t.fail(`seed ${seed}: ${fault}`)
  }
  t.pass('2,000 walks')
  t.end()
})

/** Tells a job of up to 3 steps 40 outcomes in batches. @returns what is wrong with the journal, null if nothing */
function walk(seed: number): string | null {
  const random = randomOf(seed)
  const route = ['a', 'b', 'c'].slice(0, 1 + Math.floor(random() * 3))
  const job = newJob({ route })
  const journal = [job.event]
  let stored = { record: job.record, version: 1, input: job.input as string | null }
  for (let told = 0; told < 40;) {
    const draft = draftOf(stored)
    // A batch comes from one queue, mostly from the one that the job is at.
    const queue = route[random() < 0.8 ? stored.record.step : Math.floor(random() * 3)] ?? 'elsewhere'
    for (let batch = 1 + Math.floor(random() * 4); batch > 0; batch--, told++) {
      // Mostly what does not end the job, so that walks get far.
      const outcome = random() < 0.8 ? pick(random, outcomes.slice(0, 4)) : pick(random, outcomes)
      advance(draft, 'queue' in outcome ? { ...outcome, queue } : outcome, start + told)
    }
    if (draft.events.length > 0 && !draft.touched) return 'events without a change'
    const change = changeOf(draft)
    journal.push(...change.events)
    stored = {
      record: change.record,
      version: stored.version + 1,
      input: change.input === undefined ? stored.input : change.input,
    }
    if (draft.followUp.enqueue && stored.input === null) return 'a next step without its input'
    if (isTerminal(stored.record.status) && stored.input !== null) return 'an input after the end'
  }
  return faultOf(journal, stored.record)
}

function faultOf(journal: readonly string[], record: JobRecord): string | null {
  for (const [index, text] of journal.entries()) {
    const { seq, terminal, type } = toEvent(text)
    const event = JSON.parse(text) as { seq: number; status: string; type: string; data: { seq?: number } }
    if (seq !== index + 1 || event.seq !== seq || event.type !== type) return `event ${index + 1} is ${text}`
    if (terminal && index < journal.length - 1) return `${type} is not the last`
    if (terminal && (event.data.seq !== seq || event.status !== record.status)) return `${type} is ${text}`
    if (terminal !== isTerminal(event.status as JobRecord['status'])) return `${type} says ${event.status}`
  }
  if (record.seq !== journal.length) return `the record's seq is ${record.seq} of ${journal.length}`
  const isEnded = toEvent(journal.at(-1) ?? '').terminal
  if (isEnded !== isTerminal(record.status)) return `the record says ${record.status}`
  return isEnded === (record.finishedAt !== null) ? null : 'the record does not say when it ended'
}

function draftAt(fields: Partial<JobRecord>): Draft {
  const times = { createdAt: start, updatedAt: start, notBefore: start, retentionMs: 60_000 }
  return draftOf({ record: newJob({ id, ...times, ...fields }).record, version: 1, input: '1' })
}

/** Tells the draft what happened, a second after what happened before. */
function tell(draft: Draft, outcome: Outcome): void {
  advance(draft, outcome, draft.record.updatedAt + 1_000)
}

function typesOf({ events }: Draft): string[] {
  return events.map((text) => toEvent(text).type)
}

function dataOfType({ events }: Draft, type: string): Record<string, unknown>[] {
  return events
    .filter((text) => toEvent(text).type === type)
    .map((text) => JSON.parse(dataOf(text)) as Record<string, unknown>)
}
