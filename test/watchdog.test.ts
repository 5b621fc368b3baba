import { EventEmitter, once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { setImmediate as turn } from 'node:timers/promises'
import { Queue, UnrecoverableError, Worker, type Processor } from 'bullmq'
import { pino } from 'pino'
import t, { type Test } from 'tap'
import { parseCatalog } from '../src/catalog.ts'
import { isCollected } from '../src/collect.ts'
import { createFollow, waitFor, type Follow } from '../src/follow.ts'
import type { EventType, JobRecord } from '../src/messages.ts'
import { createQueues, type Queues } from '../src/queues.ts'
import { createResultQueue, type ResultQueue } from '../src/result-queue.ts'
import { createConnect } from '../src/store/redis/connect.ts'
import { createRedisStore } from '../src/store/redis/redis-store.ts'
import type { NewJob, Store } from '../src/store/store.ts'
import { startGateway } from './gateway.ts'
import { startRedis, type TestRedis } from './helper.ts'
import { all, move, newJob } from './store-contract/jobs.ts'

/*
 * Each test does only a part of what the gateway would have done before it was killed, and makes the job due.
 * Each has queues of its own, so that what is left over from one does not concern another.
 */
const names = Array.from({ length: 48 }, (_, index) => `q${index}`)
const types = { test: { steps: names, attempts: 3, backoff_ms: 3_000 } }
const node = await openNode(t, await startRedis(t))
let used = 0
// Two watch: they must not do more than one.
for (const _ of ['one', 'another']) await startGateway(t, types, { redis: node.redis })

t.test('a job that was accepted but not enqueued is done', async (t) => {
  const { store, job, queues } = await prepare({ input: '{"n":12345678901234567890}' })
  await store.accept(job)
  await node.work(t, queues[0], async ({ data }) => data)
  await store.postpone(job.record.id, 0)
  t.match(await ended(job), { status: 'completed' })
  t.strictSame(await typesOf(job), ['job.queued', 'step.started', 'job.completed'])
})

t.test('a job that was accepted, but waits for its time, waits on', async (t) => {
  const { store, job, queues } = await prepare({ fields: { notBefore: Date.now() + 3_600_000 } })
  await store.accept(job)
  await store.postpone(job.record.id, 0)
  while ((await node.queues.truth(queues[0], job.record.id)).state !== 'delayed') await turn()
  await store.postpone(job.record.id, 0)
  await looked(job)
  t.strictSame(await typesOf(job), ['job.queued'])
})

t.test('a job that came due in a fair queue, of which nobody heard, is given its turn', async (t) => {
  const own = await openNode(t, await startRedis(t))
  const client = own.redis.connect()
  await once(client, 'ready')
  const fair = { test: { ...types.test, steps: ['fair'], fair: true } }
  const queues = createQueues(client, 'bull', parseCatalog({ types: fair }), own.store.now)
  const { job } = await prepare({ fields: { route: ['fair'], notBefore: Date.now() + 3_600_000 } })
  await own.store.accept(job)
  await queues.enqueue(job.record, job.input)
  const priority = () => client.hget(`bull:fair:${job.record.id}`, 'priority')
  const before = await priority()
  await (await own.bull('fair').getJob(job.record.id))?.promote()
  await client.xtrim('bull:fair:events', 'MAXLEN', 0)
  await startGateway(t, fair, { redis: own.redis })
  await own.store.postpone(job.record.id, 0)
  while ((await priority()) === before) await turn()
  t.equal(await priority(), '1')
  await queues.close()
})

t.test('a result that was not handed to the next step is handed to it', async (t) => {
  const { store, job, queues } = await prepare({ steps: 2 })
  await store.accept(job)
  await move(
    store,
    job,
    { kind: 'started', queue: queues[0] },
    { kind: 'completed', queue: queues[0], result: '{"x":1}' },
  )
  await node.work(t, queues[1], async ({ data }) => ({ got: data as unknown }))
  await store.postpone(job.record.id, 0)
  t.match(await ended(job), { status: 'completed', result: { got: { x: 1 } } })
  const types = ['job.queued', 'step.started', 'step.completed', 'step.started', 'job.completed']
  t.strictSame(await typesOf(job), types)
})

for (const outcome of ['completed', 'failed'] as const) {
  t.test(`an outcome that was cut from the result queue is read from BullMQ (${outcome})`, async (t) => {
    const own = await openNode(t, await startRedis(t))
    const { job, queues } = await prepare({ steps: 2 })
    await own.store.accept(job)
    await own.queues.enqueue(job.record, job.input)
    await own.workOnce(t, queues[0], outcome)
    await own.redis.connect().xtrim(`bull:${queues[0]}:events`, 'MAXLEN', 0)
    // Once nothing comes after the cut, once something does.
    if (outcome === 'failed') await own.bull(queues[0]).add('another', {})
    await startGateway(t, types, { redis: own.redis })
    await own.work(t, queues[1], async ({ data }) => data)
    await own.store.postpone(job.record.id, 0)
    const answer = await ended(job, own)
    if (outcome === 'completed') {
      t.match(answer, { status: 'completed', result: 'done' })
      t.strictSame(await typesOf(job, own), ['job.queued', 'step.completed', 'step.started', 'job.completed'])
    } else {
      t.match(answer, { status: 'failed', error: { code: 'step_failed', detail: 'no luck' } })
      t.strictSame(await typesOf(job, own), ['job.queued', 'job.failed'])
    }
  })
}

t.test('when the result queue is cut past the cursor, every job is looked at, due or not', async (t) => {
  const own = await openNode(t, await startRedis(t))
  const { job, queues } = await prepare({})
  const first = await startGateway(t, types, { redis: own.redis })
  await own.store.accept(job)
  await own.queues.enqueue(job.record, job.input)
  while ((await own.store.cursor(queues[0])) === null) await turn()
  await first.app.close()
  await own.store.postpone(job.record.id, Date.now() + 3_600_000)
  await own.workOnce(t, queues[0], 'completed')
  await own.redis.connect().xtrim(`bull:${queues[0]}:events`, 'MAXLEN', 0)
  await startGateway(t, types, { redis: own.redis })
  t.match(await ended(job, own), { status: 'completed', result: 'done' })
})

t.test('a job that its queue no longer has is lost, and has failed', async (t) => {
  const { store, job, queues } = await prepare({})
  await store.accept(job)
  await move(store, job, { kind: 'started', queue: queues[0] })
  await node.queues.enqueue(job.record, job.input)
  await node.bull(queues[0]).obliterate({ force: true })
  await store.postpone(job.record.id, 0)
  t.match(await ended(job), { status: 'failed', error: { code: 'job_lost' } })
})

t.test('a job that its queue no longer has, but no worker ever had, is enqueued again', async (t) => {
  const { store, job, queues } = await prepare({})
  await store.accept(job)
  await node.queues.enqueue(job.record, job.input)
  await node.bull(queues[0]).obliterate({ force: true })
  await node.work(t, queues[0], async () => 'done')
  await store.postpone(job.record.id, 0)
  t.match(await ended(job), { status: 'completed', result: 'done' })
})

t.test('a job that waits past its deadline expires and leaves its queue', async (t) => {
  const { store, job, queues } = await prepare({ fields: { deadlineAt: Date.now() + 1 } })
  await store.accept(job)
  await node.queues.enqueue(job.record, job.input)
  t.match(await ended(job), { status: 'expired', error: { code: 'deadline_exceeded' } })
  t.strictSame(await typesOf(job), ['job.queued', 'job.expired'])
  t.equal((await node.queues.truth(queues[0], job.record.id)).state, 'unknown')
})

t.test('a job that was never enqueued expires too', async (t) => {
  const { store, job } = await prepare({ fields: { deadlineAt: Date.now() + 1 } })
  await store.accept(job)
  t.match(await ended(job), { status: 'expired' })
})

t.test(
  'a job that a worker has past its deadline expires, and the worker’s outcome is ignored',
  async (t) => {
    const { store, job, queues } = await prepare({ steps: 2 })
    const { id } = job.record
    const held = hold()
    const worker = await node.work(t, queues[0], held.processor)
    await store.accept(job)
    await node.queues.enqueue(job.record, job.input)
    await told(job, 'step.started')
    const [stored] = await store.load([id])
    if (stored) {
      const record = { ...stored.record, deadlineAt: Date.now() - 1 }
      await store.apply(null, [{ version: stored.version, record, events: [] }])
    }
    t.match(await ended(job), { status: 'expired', step: { attempt: 1 } })
    const completed = once(worker, 'completed')
    held.release()
    await completed
    await collected(queues[0])
    t.strictSame(await typesOf(job), ['job.queued', 'step.started', 'job.expired'])
    t.equal((await node.queues.truth(queues[1], id)).state, 'unknown', 'and there is no further step')
  },
)

t.test('the attempt under way at the deadline is the last', async (t) => {
  const { store, job, queues } = await prepare({})
  const held = hold()
  let attempts = 0
  const worker = await node.work(t, queues[0], async () => {
    attempts++
    await held.processor()
    throw new Error('no luck')
  })
  await store.accept(job)
  await node.queues.enqueue(job.record, job.input)
  await told(job, 'step.started')
  await pass(job)
  t.match(await ended(job), { status: 'expired' })
  const failed = once(worker, 'failed')
  held.release()
  await failed
  while ((await node.queues.truth(queues[0], job.record.id)).state !== 'unknown') await turn()
  t.equal(attempts, 1)
})

t.test('a wish to cancel that was only stored is fulfilled', async (t) => {
  const { store, job, queues } = await prepare({})
  await store.accept(job)
  await node.queues.enqueue(job.record, job.input)
  await move(store, job, { kind: 'end_requested', ending: 'canceled' })
  await store.postpone(job.record.id, 0)
  t.match(await ended(job), { status: 'canceled', error: null })
  t.equal((await node.queues.truth(queues[0], job.record.id)).state, 'unknown')
})

t.test('a wish to cancel a job that a worker has is told, and kept', async (t) => {
  const { store, job, queues } = await prepare({ steps: 2 })
  const held = hold()
  await node.work(t, queues[0], held.processor)
  await store.accept(job)
  await node.queues.enqueue(job.record, job.input)
  await told(job, 'step.started')
  await move(store, job, { kind: 'end_requested', ending: 'canceled' })
  await store.postpone(job.record.id, 0)
  await told(job, 'job.canceling')
  held.release()
  t.match(await ended(job), { status: 'canceled' })
  const types = ['job.queued', 'step.started', 'job.canceling', 'step.completed', 'job.canceled']
  t.strictSame(await typesOf(job), types)
})

t.test('a job that came back into its queue while it was being canceled is canceled', async (t) => {
  const { store, job, queues } = await prepare({})
  await store.accept(job)
  await move(store, job, { kind: 'started', queue: queues[0] }, { kind: 'canceling' })
  await node.queues.enqueue(job.record, job.input)
  await store.postpone(job.record.id, 0)
  t.match(await ended(job), { status: 'canceled' })
  t.equal((await node.queues.truth(queues[0], job.record.id)).state, 'unknown')
})

t.test('a job that was taken out of its queue for its end, but did not end, ends', async (t) => {
  for (const ending of ['canceled', 'expired'] as const) {
    const { store, job, queues } = await prepare({})
    await store.accept(job)
    await move(store, job, { kind: 'end_requested', ending })
    await store.postpone(job.record.id, 0)
    t.match(await ended(job), { status: ending })
    t.equal(await resultsOf(queues[0]).newest(), null, 'and is not put in again')
  }
})

t.test('a healthy job is left alone, however often it is looked at', async (t) => {
  const { store, job, queues } = await prepare({})
  const held = hold()
  await node.work(t, queues[0], held.processor)
  await store.accept(job)
  await node.queues.enqueue(job.record, job.input)
  await told(job, 'step.started')
  for (const _ of [1, 2]) {
    await store.postpone(job.record.id, 0)
    await looked(job)
  }
  held.release()
  t.match(await ended(job), { status: 'completed' })
  t.strictSame(await typesOf(job), ['job.queued', 'step.started', 'job.completed'])
})

t.test('a job whose worker was lost, the last of its queue, is there for the next', async (t) => {
  const { store, job, queues } = await prepare({})
  await store.accept(job)
  await node.queues.enqueue(job.record, job.input)
  await loseWorker(queues[0])
  await hurried([job], told(job, 'step.retrying'))
  t.equal((await node.queues.truth(queues[0], job.record.id)).state, 'waiting')
  await node.work(t, queues[0], async () => 'done')
  t.match(await ended(job), { status: 'completed', step: { attempt: 2 } })
  const events = await all(store, job)
  t.strictSame(
    events.map(({ type }) => type),
    ['job.queued', 'step.started', 'step.retrying', 'step.started', 'job.completed'],
  )
  t.match(JSON.parse(events[2]?.text ?? ''), { data: { reason: 'the worker was lost', attempt: 1 } })
})

t.test('a job that was canceled under the last worker is canceled when that worker is lost', async (t) => {
  const { store, job, queues } = await prepare({})
  await store.accept(job)
  await node.queues.enqueue(job.record, job.input)
  await loseWorker(queues[0])
  await told(job, 'step.started')
  await move(store, job, { kind: 'canceling' })
  t.match(await hurried([job], ended(job)), { status: 'canceled' })
  while ((await node.queues.truth(queues[0], job.record.id)).state !== 'unknown') await turn()
})

t.test('a job that kills its workers fails, also when no worker is left to notice', async (t) => {
  const { store, job, queues } = await prepare({})
  const good = newJob({ route: [queues[0]] })
  for (const each of [job, good]) {
    await store.accept(each)
    await node.queues.enqueue(each.record, each.input)
  }
  await loseWorker(queues[0])
  await hurried([job], told(job, 'step.retrying'))
  await loseWorker(queues[0])
  t.match(await hurried([job], ended(job)), {
    status: 'failed',
    error: { code: 'step_failed', detail: /worker was lost every time.*kills its workers/, attempts: 2 },
  })
  while ((await node.queues.truth(queues[0], job.record.id)).state !== 'unknown') await turn()
  t.strictSame(await typesOf(good), ['job.queued'], 'the next in the queue is left alone')
  await node.work(t, queues[0], async ({ id }) => id)
  t.match(await ended(good), { status: 'completed', result: good.record.id })
})

t.test('while there are workers, lost ones are theirs to notice', async (t) => {
  const { store, job, queues } = await prepare({})
  const [queue] = queues
  await store.accept(job)
  await node.queues.enqueue(job.record, job.input)
  const idle = new Worker(queue, null, { connection: node.redis.connect({ maxRetriesPerRequest: null }) })
  await idle.waitUntilReady()
  await loseWorker(queue)
  await told(job, 'step.started')
  await recovered(job)
  t.match(await node.queues.truth(queue, job.record.id), { state: 'active', isLocked: false })
  // It has checked, and goes: until the next check is due, there may be workers whose connections have no name.
  const checked = `bull:${queue}:stalled-check`
  await node.redis.connect().set(checked, Date.now())
  await idle.close()
  await recovered(job)
  t.equal((await node.queues.truth(queue, job.record.id)).state, 'active')
  await node.redis.connect().del(checked)
  await hurried([job], told(job, 'step.retrying'))
})

t.test('when BullMQ fails a job that kills its workers, the reason says so', async (t) => {
  const { store, job, queues } = await prepare({})
  const [queue] = queues
  await store.accept(job)
  await node.queues.enqueue(job.record, job.input)
  await loseWorker(queue)
  const worker = new Worker(queue, async () => 'never', {
    connection: node.redis.connect({ maxRetriesPerRequest: null }),
    maxStalledCount: 0,
    stalledInterval: 100,
  })
  t.teardown(() => worker.close(true))
  t.match(await ended(job), {
    status: 'failed',
    error: { code: 'step_failed', detail: /worker was lost every time.*kills its workers/ },
  })
})

t.test('nothing is repaired that the result queue is yet to tell', async (t) => {
  const own = await openNode(t, await startRedis(t))
  const { job, queues } = await prepare({})
  // Somebody has the duty to collect and does not do it.
  await own.store.lease(queues[0], 'asleep', 3_600_000)
  await own.store.accept(job)
  await own.queues.enqueue(job.record, job.input)
  await own.workOnce(t, queues[0], 'completed')
  await startGateway(t, types, { redis: own.redis })
  await own.store.postpone(job.record.id, 0)
  // First it is claimed, then put off for less than that.
  for (let [due, claimed] = [0, 0]; due >= claimed; due = await dueOf(job, own)) {
    claimed = Math.max(claimed, due)
    await turn()
  }
  t.strictSame(await typesOf(job, own), ['job.queued'])
  await own.store.release(queues[0], 'asleep')
  t.match(await ended(job, own), { status: 'completed' })
  t.strictSame(await typesOf(job, own), ['job.queued', 'step.started', 'job.completed'])
})

t.test('after a loss every job is looked at', async (t) => {
  const prepared = await Promise.all(Array.from({ length: 3 }, () => prepare({})))
  for (const { store, job } of prepared) await store.accept(job)
  for (const { queues } of prepared) await node.work(t, queues[0], async () => 'done')
  await node.store.suspectAll(Date.now())
  for (const { job } of prepared) t.match(await ended(job), { status: 'completed' })
})

t.test('an end that was not handed over to its return address is', async (t) => {
  const receiver = await startReceiver(t)
  const { store, job, queues } = await prepare({ callback: receiver.url })
  await store.accept(job)
  await move(store, job, { kind: 'failed', queue: queues[0], reason: 'no luck' })
  await store.postpone(job.record.id, 0)
  const event = (await all(store, job)).at(-1)
  t.equal(await receiver.received(job), event?.text)
})

t.test('so is one whose hand-over was cut off half way', async (t) => {
  const receiver = await startReceiver(t)
  const { store, job, queues } = await prepare({ callback: receiver.url })
  await store.accept(job)
  await move(store, job, { kind: 'failed', queue: queues[0], reason: 'no luck' })
  await store.deliveries.handOver(job.record.id)
  await store.postpone(job.record.id, 0)
  t.ok(await receiver.received(job))
})

t.test('so is one that an earlier version of the gateway had in another queue', async (t) => {
  const receiver = await startReceiver(t)
  const { store, job, queues } = await prepare({ callback: receiver.url })
  await store.accept(job)
  await move(store, job, { kind: 'failed', queue: queues[0], reason: 'no luck' })
  const client = node.redis.connect()
  await client.hdel(`{quartet}:job:${job.record.id}`, 'origin')
  await client.hset(`{quartet}:job:${job.record.id}`, 'delivering', 2)
  await store.postpone(job.record.id, 0)
  t.ok(await receiver.received(job))
})

t.test('so is one to a return address that came after the end', async (t) => {
  const receiver = await startReceiver(t)
  const { store, job, queues } = await prepare({})
  await store.accept(job)
  await move(store, job, { kind: 'failed', queue: queues[0], reason: 'no luck' })
  await store.deliveries.setCallback(job.record.id, { url: receiver.url, events: null }, 0)
  await store.postpone(job.record.id, 0)
  t.ok(await receiver.received(job))
})

t.test('an event of a job under way is handed over as well', async (t) => {
  const receiver = await startReceiver(t)
  const { store, job } = await prepare({ callback: receiver.url, events: ['job.queued'] })
  await store.accept(job)
  await node.queues.enqueue(job.record, job.input)
  await store.postpone(job.record.id, 0)
  t.equal(await receiver.received(job), job.event)
})

t.test('a job whose queue nobody collects from any more expires all the same', async (t) => {
  const { store, job } = await prepare({ fields: { route: ['gone'], deadlineAt: Date.now() + 1 } })
  await store.accept(job)
  await node.queues.enqueue(job.record, job.input)
  t.match(await ended(job), { status: 'expired' })
})

t.test('an ended job is forgotten when its retention is over', async (t) => {
  const { store, job } = await prepare({ fields: { retentionMs: 1 } })
  const kept = await prepare({ fields: { retentionMs: 3_600_000 } })
  for (const each of [job, kept.job]) {
    await store.accept(each)
    await move(store, each, { kind: 'failed', queue: each.record.route[0] ?? '', reason: 'no luck' })
    await store.postpone(each.record.id, 0)
  }
  while ((await store.load([job.record.id]))[0] !== null) await turn()
  await looked(kept.job)
  t.match(await store.load([kept.job.record.id]), [{ record: { status: 'failed' } }])
})

t.test('what is left of a job that is gone is cleared away', async (t) => {
  const { store, job } = await prepare({})
  await store.accept(job)
  const client = node.redis.connect()
  await client.del(`{quartet}:job:${job.record.id}`)
  await store.postpone(job.record.id, 0)
  while ((await client.keys(`*${job.record.id}*`)).length > 0) await turn()
  while ((await dueOf(job)) !== -1) await turn()
  t.pass('nothing')
})

interface Node {
  readonly redis: TestRedis
  readonly store: Store
  readonly queues: Queues
  readonly follow: Follow
  bull(queue: string): Queue
  /** Runs a plain BullMQ worker until the test ends. */
  work(t: Test, queue: string, processor: Processor): Promise<Worker>
  /** Lets a worker do one job, and ends it. */
  workOnce(t: Test, queue: string, outcome: 'completed' | 'failed'): Promise<void>
}

/** The parts of a gateway, none of which does anything by itself. */
async function openNode(t: Test, redis: TestRedis): Promise<Node> {
  const connect = createConnect(redis.url, () => undefined)
  const client = connect('command')
  await once(client, 'ready')
  const store = createRedisStore(client, connect)
  const queues = createQueues(client, 'bull', parseCatalog({ types }), store.now)
  t.teardown(async () => {
    await queues.close()
    await store.close()
    client.disconnect()
  })
  const work: Node['work'] = async (t, queue, processor) => {
    const worker = new Worker(queue, processor, { connection: redis.connect({ maxRetriesPerRequest: null }) })
    worker.on('error', () => undefined)
    t.teardown(() => worker.close(true))
    await worker.waitUntilReady()
    return worker
  }
  return {
    redis,
    store,
    queues,
    follow: createFollow({ store, log: pino({ level: 'silent' }) }),
    work,
    bull(name) {
      const queue = new Queue(name, { connection: redis.connect() })
      t.teardown(() => queue.close())
      return queue
    },
    async workOnce(t, queue, outcome) {
      const connection = redis.connect({ maxRetriesPerRequest: null })
      const processor: Processor = async () => {
        if (outcome === 'failed') throw new UnrecoverableError('no luck')
        return 'done'
      }
      const worker = new Worker(queue, processor, { connection, autorun: false })
      t.teardown(() => worker.close(true))
      const over = once(worker, outcome)
      const run = worker.run()
      await over
      await worker.close()
      await run
    },
  }
}

interface Prepared {
  readonly store: Store
  readonly job: NewJob
  readonly queues: readonly [string, string]
}

/** A job that nobody knows of yet, on one or two queues that nobody else uses. */
async function prepare({
  steps = 1,
  fields = {},
  input = '{}',
  callback,
  events = null,
}: {
  steps?: 1 | 2
  fields?: Partial<JobRecord>
  input?: string
  callback?: string
  events?: readonly string[] | null
}): Promise<Prepared> {
  const queues = names.slice(used, (used += steps))
  if (queues.length < steps) throw new Error(`Expected a queue for every test, got ${names.length}`)
  const returnAddress = callback === undefined ? null : { url: callback, events }
  const job = newJob({ route: queues, ...fields }, { input, callback: returnAddress })
  return { store: node.store, job, queues: [queues[0] ?? '', queues[1] ?? ''] }
}

/** A processor that does not return before it is released. */
function hold(): { processor: () => Promise<void>; release(): void } {
  const emitter = new EventEmitter()
  const released = once(emitter, 'release').then(() => undefined)
  return { processor: () => released, release: () => emitter.emit('release') }
}

async function told({ record: { id } }: NewJob, type: EventType, { follow } = node): Promise<void> {
  const signal = AbortSignal.timeout(100_000)
  await waitFor(follow, id, 0, (event) => event.type === type, { waitMs: 100_000, signal })
}

/** The job as a client sees it, once it has ended. */
async function ended(job: NewJob, { follow, store } = node): Promise<unknown> {
  const { id, tenant } = job.record
  const signal = AbortSignal.timeout(100_000)
  await waitFor(follow, id, 0, ({ terminal }) => terminal, { waitMs: 100_000, signal })
  const view = await store.get(tenant, id)
  return JSON.parse(view?.text ?? 'null')
}

/** A worker takes the queue's next job, and is gone without a word. */
async function loseWorker(queue: string): Promise<void> {
  const connection = node.redis.connect({ maxRetriesPerRequest: null })
  const worker = new Worker(queue, null, { connection, lockDuration: 1 })
  await worker.waitUntilReady()
  const taken = await worker.getNextJob('lost')
  if (!taken) throw new Error(`Expected a job in ${queue}, got none`)
  await worker.close()
}

/** Makes jobs due again and again until something has come of it. */
async function hurried<T>(jobs: readonly NewJob[], outcome: Promise<T>): Promise<T> {
  const over = new AbortController()
  const done = outcome.finally(() => over.abort())
  while (!over.signal.aborted) {
    for (const { record } of jobs) await node.store.postpone(record.id, 0)
    await Promise.race([Promise.all(jobs.map((job) => looked(job))), done])
  }
  return done
}

/** Looks at a job for as long as it takes until another one, which nobody else cares for, is recovered twice. */
async function recovered(job: NewJob): Promise<void> {
  const { store, job: other, queues } = await prepare({})
  await store.accept(other)
  await node.queues.enqueue(other.record, other.input)
  await loseWorker(queues[0])
  await hurried([job, other], told(other, 'step.retrying'))
  await loseWorker(queues[0])
  await hurried([job, other], ended(other))
}

/** Lets a job's deadline pass. */
async function pass({ record: { id } }: NewJob): Promise<void> {
  const [stored] = await node.store.load([id])
  if (!stored) throw new Error('Expected the job to be there, got none')
  const record = { ...stored.record, deadlineAt: Date.now() - 1 }
  await node.store.apply(null, [{ version: stored.version, record, events: [] }])
}

/** Waits until the watchdog has turned to a job that is due. */
async function looked(job: NewJob): Promise<void> {
  while ((await dueOf(job)) < Date.now()) await turn()
}

/** Waits until all that a queue has told is in the journals. */
async function collected(queue: string): Promise<void> {
  while (!(await isCollected(node.store, queue, await resultsOf(queue).newest(), 1_000))) await turn()
}

function resultsOf(queue: string): ResultQueue {
  const client = node.redis.connect()
  return createResultQueue(client, () => client, 'bull', queue)
}

/** When a job is to be looked at, -1 if never. */
async function dueOf({ record: { id } }: NewJob, { redis } = node): Promise<number> {
  const client = redis.connect()
  const due = await client.zscore('{quartet}:due', id)
  client.disconnect()
  return Number(due ?? -1)
}

async function typesOf(job: NewJob, { store } = node): Promise<string[]> {
  return (await all(store, job)).map(({ type }) => type)
}

/** A return address that takes everything. */
async function startReceiver(t: Test): Promise<{ url: string; received(job: NewJob): Promise<string> }> {
  const bodies = new Map<string, string>()
  const emitter = new EventEmitter()
  const server = createServer((request, response) => {
    const chunks: Buffer[] = []
    request.on('data', (chunk: Buffer) => chunks.push(chunk))
    request.on('end', () => {
      const [id = ''] = String(request.headers['webhook-id']).split('.')
      bodies.set(id, Buffer.concat(chunks).toString())
      response.end()
      emitter.emit('received')
    })
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => {
    server.close()
    server.closeAllConnections()
  })
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/`,
    async received({ record: { id } }) {
      while (!bodies.has(id)) await once(emitter, 'received')
      return bodies.get(id) ?? ''
    },
  }
}
