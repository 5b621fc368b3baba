import { DelayedError, Queue, UnrecoverableError, WaitingError, Worker } from 'bullmq'
import type { Job, JobsOptions, Processor, WorkerOptions } from 'bullmq'
import t, { type Test } from 'tap'
import { v7 as uuidv7 } from 'uuid'
import { advance, draftOf, type Outcome } from '../src/advance.ts'
import { toEvent } from '../src/messages.ts'
import { toOutcomes, type Told } from '../src/outcomes.ts'
import { createResultQueue, timeOf, type ResultEntry, type ResultQueue } from '../src/result-queue.ts'
import { spawnProcess, startRedis } from './helper.ts'
import { newJob } from './store-contract/jobs.ts'

const redis = await startRedis(t)
let opened = 0

t.test('a success is told with its start, its progress and its result', async (t) => {
  const step = openStep(t)
  step.work(async (job) => {
    await job.updateProgress(40)
    await job.updateProgress({ message: 'nearly' })
    return { n: 1 }
  })
  const id = await step.add()
  t.strictSame(await step.outcomes('completed'), [
    { kind: 'started' },
    { kind: 'progress', data: '40' },
    { kind: 'progress', data: '{"message":"nearly"}' },
    { kind: 'completed', result: '{"n":1}' },
  ])
  const told = await step.told()
  t.strictSame([...new Set(told.map((each) => each.id))], [id])
  const job = await step.queue.getJob(id)
  t.ok((told.at(-1)?.at ?? 0) >= (job?.timestamp ?? Infinity), 'at the time that it happened')
})

t.test('a worker that returns nothing has the result null', async (t) => {
  const step = openStep(t)
  step.work(async () => undefined)
  await step.add()
  t.strictSame((await step.outcomes('completed')).at(-1), { kind: 'completed', result: 'null' })
})

t.test('an attempt that failed is told with its reason and the wait before the next', async (t) => {
  const step = openStep(t)
  step.work(async () => {
    throw new Error('no "luck"')
  })
  await step.add({ attempts: 2, backoff: { type: 'fixed', delay: 3_600_000 } })
  const [started, retrying, ...others] = await step.outcomes('delayed')
  t.strictSame(started, { kind: 'started' })
  t.match(retrying, { kind: 'retrying', reason: 'no "luck"', delayMs: Number })
  const delayMs = Number(retrying?.['delayMs'])
  t.ok(delayMs > 3_000_000 && delayMs < 4_000_000, 'about an hour')
  t.strictSame(others, [])
})

t.test('the end of a wait is nothing of its own', async (t) => {
  const step = openStep(t)
  step.work(async ({ attemptsMade }) => {
    if (attemptsMade === 0) throw new Error('no luck')
  })
  await step.add({ attempts: 2, backoff: { type: 'fixed', delay: 10 } })
  const kinds = (await step.outcomes('completed')).map(({ kind }) => kind)
  t.strictSame(kinds, ['started', 'retrying', 'started', 'completed'])
  t.ok(step.entries.some(({ event, fields }) => event === 'waiting' && fields['prev'] === 'delayed'))
})

t.test('an attempt without a wait before the next is told just so', async (t) => {
  const step = openStep(t)
  step.work(async ({ attemptsMade }) => {
    if (attemptsMade < 2) throw new Error('no luck')
  })
  await step.add({ attempts: 3 })
  const retrying = { kind: 'retrying', reason: 'no luck', delayMs: 0 }
  t.strictSame(await step.outcomes('completed'), [
    { kind: 'started' },
    retrying,
    { kind: 'started' },
    retrying,
    { kind: 'started' },
    { kind: 'completed', result: 'null' },
  ])
})

t.test('the last attempt’s failure is the step’s', async (t) => {
  const step = openStep(t)
  step.work(async ({ attemptsMade }) => {
    throw new Error(`no luck, ${attemptsMade}`)
  })
  await step.add({ attempts: 2 })
  const outcomes = await step.outcomes('failed')
  t.strictSame(
    outcomes.map(({ kind }) => kind),
    ['started', 'retrying', 'started', 'failed'],
  )
  t.strictSame(outcomes.at(-1), { kind: 'failed', reason: 'no luck, 1' })
})

t.test('an unrecoverable failure is not followed by another attempt', async (t) => {
  const step = openStep(t)
  step.work(async () => {
    throw new UnrecoverableError('never')
  })
  await step.add({ attempts: 5 })
  t.strictSame(await step.outcomes('failed'), [{ kind: 'started' }, { kind: 'failed', reason: 'never' }])
})

t.test('a job that a worker puts off or puts back is retried without a failure', async (t) => {
  const step = openStep(t)
  step.work(async (job, token) => {
    if (job.attemptsStarted === 1) {
      await job.moveToDelayed(Date.now() + 5, token)
      throw new DelayedError()
    }
    if (job.attemptsStarted === 2) {
      await job.moveToWait(token)
      throw new WaitingError()
    }
  })
  await step.add()
  t.match(await step.outcomes('completed'), [
    { kind: 'started' },
    { kind: 'retrying', reason: 'the worker put it off', delayMs: Number },
    { kind: 'started' },
    { kind: 'retrying', reason: 'the worker put it back', delayMs: 0 },
    { kind: 'started' },
    { kind: 'completed' },
  ])
})

t.test('the job of a killed worker is told as lost once, and taken by another', async (t) => {
  const step = openStep(t)
  const script = `
    import { Worker } from 'bullmq'
    const connection = { host: '127.0.0.1', port: ${redis.port}, maxRetriesPerRequest: null }
    new Worker('${step.name}', () => new Promise(() => setInterval(() => {}, 1e6)), { connection, lockDuration: 2000, stalledInterval: 100 })`
  const doomed = spawnProcess(t, ['node', '--input-type=module', '--eval', script])
  await step.add()
  await step.outcomes('active')
  doomed.child.kill('SIGKILL')
  step.work(async () => 'at last')
  t.strictSame(await step.outcomes('completed'), [
    { kind: 'started' },
    { kind: 'retrying', reason: 'the worker was lost', delayMs: 0 },
    { kind: 'started' },
    { kind: 'completed', result: '"at last"' },
  ])
  // BullMQ tells it by two entries, and nothing must come in between.
  const at = step.entries.findIndex(({ event }) => event === 'stalled')
  t.match(step.entries[at - 1], { event: 'waiting', fields: { prev: 'active' } })
})

t.test('a job that loses too many workers has failed', async (t) => {
  const step = openStep(t)
  const options = { lockDuration: 100, skipLockRenewal: true, maxStalledCount: 0 }
  step.work(() => new Promise(() => undefined), options)
  await step.add()
  await step.outcomes('active')
  step.work(async () => 'never', options)
  const outcomes = await step.outcomes('failed')
  t.strictSame(outcomes.slice(0, 2), [
    { kind: 'started' },
    { kind: 'retrying', reason: 'the worker was lost', delayMs: 0 },
  ])
  t.match(outcomes.at(-1), { kind: 'failed', reason: /stalled more than allowable limit/ })
})

t.test('a job that is not yet to begin is not a retry of it', async (t) => {
  const step = openStep(t)
  await step.add({ delay: 3_600_000 })
  await step.outcomes('delayed')
  t.strictSame(typesOf(await step.told()), [])
})

t.test('a job with a priority, or in a paused queue, is told like any other', async (t) => {
  const step = openStep(t)
  await step.queue.pause()
  const id = await step.add({ priority: 5 })
  t.ok(id)
  t.strictSame(await step.outcomes('waiting'), [])
  step.work(async () => 1)
  await step.queue.resume()
  t.strictSame(await step.outcomes('completed'), [{ kind: 'started' }, { kind: 'completed', result: '1' }])
})

t.test('a job that somebody removes is told as removed, wherever it waits', async (t) => {
  for (const options of [{}, { delay: 3_600_000 }, { priority: 1 }]) {
    const step = openStep(t)
    await step.queue.remove(await step.add(options))
    t.strictSame((await step.outcomes('removed')).at(-1), { kind: 'removed' })
    t.strictSame(typesOf(await step.told()), ['job.failed'])
  }
})

t.test('however the entries are cut into batches, they tell the same', async (t) => {
  const step = openStep(t)
  const flaky = step.work(async ({ attemptsMade }) => {
    if (attemptsMade === 0) throw new Error('no luck')
  })
  for (const _ of [1, 2, 3]) await step.add({ attempts: 2 })
  while (!step.isOver(3)) await step.read()
  await flaky.close()
  const idle = step.work(() => new Promise(() => undefined), {
    lockDuration: 100,
    skipLockRenewal: true,
    maxStalledCount: 100,
    concurrency: 3,
  })
  for (const _ of [1, 2, 3]) await step.add()
  while (!step.isOver(9, 'active')) await step.read()
  await idle.close(true)
  step.work(async () => 'at last', { maxStalledCount: 100 })
  while (!step.isOver(6)) await step.read()

  const whole = await step.told()
  const reasons = whole.flatMap(({ outcome }) => ('reason' in outcome ? [outcome.reason] : []))
  t.equal(reasons.filter((reason) => reason === 'no luck').length, 3)
  t.ok(reasons.filter((reason) => reason === 'the worker was lost').length >= 3)
  for (let size = 2; size <= step.entries.length + 1; size++) {
    const told: Told[] = []
    for (let cursor: string | null = null; ;) {
      const entries = await step.results.read(cursor, size, 1)
      if (entries.length === 0) break
      const batch = await toOutcomes(step.name, step.results, entries, entries.length === size)
      told.push(...batch.told)
      cursor = batch.last ?? cursor
    }
    t.strictSame(told, whole, `batches of ${size}`)
  }
})

t.test('a batch without anything to tell is used all the same', async (t) => {
  const step = openStep(t)
  t.strictSame(await toOutcomes(step.name, step.results, [], false), { told: [], last: null })
  await step.add()
  await step.outcomes('waiting')
  const { told, last } = await toOutcomes(step.name, step.results, step.entries, true)
  t.strictSame(told, [])
  t.equal(last, step.entries.at(-1)?.id)
})

interface Step {
  readonly name: string
  readonly queue: Queue
  readonly results: ResultQueue
  /** What was read from the result queue so far. */
  readonly entries: readonly ResultEntry[]
  add(options?: JobsOptions): Promise<string>
  work(processor: Processor, options?: Partial<WorkerOptions>): Worker
  read(): Promise<void>
  /** Whether so many entries of a kind were read. */
  isOver(count: number, event?: string): boolean
  /** The outcomes of all entries, once one of these has come; without their queue. */
  outcomes(event: string): Promise<Record<string, unknown>[]>
  told(): Promise<Told[]>
}

/** A queue of its own, in a BullMQ that is real. */
function openStep(t: Test): Step {
  const name = `step-${++opened}`
  const queue = new Queue(name, { connection: redis.connect({ maxRetriesPerRequest: null }) })
  const results = createResultQueue(redis.connect(), () => redis.connect(), 'bull', name)
  const entries: ResultEntry[] = []
  t.teardown(async () => {
    results.close()
    await queue.close()
  })
  const told = async (): Promise<Told[]> => (await toOutcomes(name, results, entries, false)).told
  const read = async (): Promise<void> => {
    entries.push(...(await results.read(entries.at(-1)?.id ?? null, 500, 1_000)))
  }

  return {
    name,
    queue,
    results,
    entries,
    told,
    read,
    async add(options = {}) {
      const job: Job = await queue.add('test', {}, { jobId: uuidv7(), ...options })
      return job.id ?? ''
    },
    work(processor, options) {
      const connection = redis.connect({ maxRetriesPerRequest: null })
      const worker = new Worker(name, processor, { connection, stalledInterval: 100, ...options })
      worker.on('error', () => undefined)
      t.teardown(() => worker.close(true))
      return worker
    },
    isOver(count, event = 'completed') {
      return entries.filter((entry) => entry.event === event).length >= count
    },
    async outcomes(event) {
      while (!entries.some((entry) => entry.event === event)) await read()
      const all = await told()
      t.ok(all.every(({ at }) => at >= timeOf(entries[0]?.id ?? '')))
      return all.map(({ outcome }) => {
        const { queue, ...rest } = outcome as Extract<Outcome, { queue: string }>
        t.equal(queue, name)
        return rest
      })
    },
  }
}

/** The events that the outcomes make of a job at this step. */
function typesOf(told: readonly Told[]): string[] {
  const queue = (told[0]?.outcome as { queue?: string } | undefined)?.queue ?? ''
  const { record, input } = newJob({ route: [queue] })
  const draft = draftOf({ record, version: 1, input })
  for (const { outcome, at } of told) advance(draft, outcome, at)
  return draft.events.map((text) => toEvent(text).type)
}
