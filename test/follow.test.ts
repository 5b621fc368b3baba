import { EventEmitter, once } from 'node:events'
import { setImmediate as turn } from 'node:timers/promises'
import { pino } from 'pino'
import t, { type Test } from 'tap'
import { v7 as uuidv7 } from 'uuid'
import {
  createFollow,
  waitFor,
  withSnapshot,
  type Follow,
  type Subscriber,
  type Subscription,
} from '../src/follow.ts'
import { dataOf } from '../src/job.ts'
import type { JobEvent, JobRecord } from '../src/messages.ts'
import { createConnect } from '../src/store/redis/connect.ts'
import { createRedisStore } from '../src/store/redis/redis-store.ts'
import type { Listener, NewJob, Store } from '../src/store/store.ts'
import { startRedis } from './helper.ts'
import { all, move, newJob, pick, randomOf } from './store-contract/jobs.ts'

const redis = await startRedis(t)
const client = redis.connect()
const log = pino({ level: 'silent' })
const started = { kind: 'started', queue: 'a' } as const
const progress = { kind: 'progress', queue: 'a', data: '"token"' } as const
const completed = { kind: 'completed', queue: 'a', result: '{"n":1.0}' } as const

t.test('who comes late gets the same as who came early (invariant 4)', async (t) => {
  const { follow, store } = await open(t)
  const job = await accepted(store)
  const early = subscribe(follow, job, 0)
  await early.until(1)
  await move(store, job, started)
  const middle = subscribe(follow, job, 0)
  await middle.until(1)
  for (const n of [1, 2, 3]) await move(store, job, { kind: 'progress', queue: 'a', data: `${n}` })
  await move(store, job, completed)
  await Promise.all([early.ended, middle.ended])
  const late = subscribe(follow, job, 0)
  await late.ended
  const journal = await all(store, job)
  t.equal(journal.length, 6)
  for (const each of [early, middle, late]) t.strictSame(each.events, journal)
})

t.test('who resumes gets what comes after', async (t) => {
  const { follow, store } = await open(t)
  const job = await accepted(store)
  await move(store, job, started, { kind: 'progress', queue: 'a', data: '1' })
  const resumed = subscribe(follow, job, 2)
  await resumed.until(3)
  await move(store, job, completed)
  await resumed.ended
  t.strictSame(resumed.events, (await all(store, job)).slice(2))
})

t.test('a long journal is written page by page', async (t) => {
  const { follow, store } = await open(t)
  const job = await accepted(store)
  const progress = Array.from(
    { length: 999 },
    (_, n) => ({ kind: 'progress', queue: 'a', data: `${n}` }) as const,
  )
  await move(store, job, ...progress)
  await move(store, job, completed)
  const late = subscribe(follow, job, 0)
  await late.ended
  t.strictSame(late.events, await all(store, job))
  t.ok(late.writes() > 1)
})

t.test('whoever follows a job that is not there is told the end', async (t) => {
  const { follow } = await open(t)
  const subscriber = subscribe(follow, newJob(), 0)
  await subscriber.ended
  t.strictSame(subscriber.events, [])
})

t.test('in any order of joining, filling up and leaving, nobody misses or repeats an event', async (t) => {
  const { follow, store } = await open(t)
  for (let seed = 1; seed <= 20; seed++) {
    const random = randomOf(seed)
    const job = await accepted(store)
    const after = new Map<Recorder, number>()
    const leaving: Recorder[] = []
    let written = 1
    for (let round = 0; round < 30; round++) {
      if (random() < 0.5) {
        const cursor = Math.floor(random() * (written + 1))
        const chance = randomOf(100 * seed + round)
        const recorder = subscribe(follow, job, cursor, { hasRoom: () => chance() < 0.7, resumes: true })
        after.set(recorder, cursor)
      }
      if (random() < 0.1 && after.size > 0) {
        const recorder = pick(random, [...after.keys()])
        recorder.subscription.stop()
        leaving.push(recorder)
      }
      const batch = Array.from({ length: 1 + Math.floor(random() * 5) }, () =>
        pick(random, [started, progress]),
      )
      written += batch.length
      const moving = move(store, job, ...batch)
      if (random() < 0.5) await moving
      else await Promise.all([moving, turn()])
    }
    await move(store, job, completed)
    const journal = await all(store, job)
    for (const [recorder, cursor] of after) {
      if (leaving.includes(recorder)) {
        const got = recorder.events.length
        t.strictSame(recorder.events, journal.slice(cursor, cursor + got), `seed ${seed}: who left`)
      } else {
        await recorder.ended
        t.strictSame(recorder.events, journal.slice(cursor), `seed ${seed}: from ${cursor}`)
        t.equal(recorder.ends(), 1)
      }
    }
  }
})

t.test('many follow over one channel, which is closed with the last', async (t) => {
  const { follow, store, calls } = await open(t)
  const job = await accepted(store)
  const followers = Array.from({ length: 100 }, () => subscribe(follow, job, 0))
  await Promise.all(followers.map((each) => each.until(1)))
  t.equal(calls.follow, 1)
  t.equal(await followersOf(job), 1)
  await move(store, job, started)
  await Promise.all(followers.map((each) => each.until(2)))
  t.equal(
    new Set(followers.map((each) => each.events[1])).size,
    1,
    'the same event, so that it is encoded once',
  )
  const [last, ...others] = followers
  for (const each of others) each.subscription.stop()
  await move(store, job, progress)
  await last?.until(3)
  t.ok(others.every((each) => each.events.length === 2))
  last?.subscription.stop()
  last?.subscription.stop()
  while ((await followersOf(job)) > 0) await turn()

  const next = subscribe(follow, job, 3)
  while ((await followersOf(job)) < 1) await turn()
  await move(store, job, completed)
  await next.ended
  t.strictSame(next.seqs(), [4])
  while ((await followersOf(job)) > 0) await turn()
})

t.test('a client that is full costs nothing, and reads on when it has room', async (t) => {
  const { follow, store, calls } = await open(t)
  const job = await accepted(store)
  let hasRoom = false
  const slow = subscribe(follow, job, 0, { hasRoom: () => hasRoom })
  const quick = subscribe(follow, job, 0)
  await Promise.all([slow.until(1), quick.until(1)])
  const before = calls.read
  for (let n = 0; n < 500; n++) await move(store, job, { kind: 'progress', queue: 'a', data: `${n}` })
  await quick.until(501)
  t.strictSame(slow.seqs(), [1], 'nothing is written')
  t.equal(calls.read, before, 'nothing is read')
  slow.subscription.resume()
  await slow.until(2)
  t.ok(slow.seqs().length < 501, 'a page at a time')
  hasRoom = true
  slow.subscription.resume()
  slow.subscription.resume()
  await move(store, job, completed)
  await Promise.all([slow.ended, quick.ended])
  t.strictSame(slow.events, quick.events)
  t.strictSame(slow.events, await all(store, job))
})

t.test('a client that shares a full socket is asked before anything is read for it', async (t) => {
  const { follow, store, calls } = await open(t)
  const job = await accepted(store)
  let hasRoom = false
  const events: JobEvent[] = []
  const emitter = new EventEmitter()
  const ended = once(emitter, 'end')
  const subscription = follow(job.record.id, 0, {
    hasRoom: () => hasRoom,
    write(batch) {
      t.ok(hasRoom)
      events.push(...batch)
      hasRoom = events.length % 5 !== 0
      if (!hasRoom) setImmediate(drain)
      return true
    },
    end: () => emitter.emit('end'),
  })
  function drain(): void {
    hasRoom = true
    subscription.resume()
  }
  while ((await followersOf(job)) < 1) await turn()
  for (let n = 0; n < 20; n++) await move(store, job, progress)
  const quick = subscribe(follow, job, 20)
  await quick.until(21)
  t.equal(calls.read, 1, 'for the other one')
  t.strictSame(events, [])
  drain()
  await move(store, job, completed)
  await ended
  t.strictSame(events, await all(store, job))
})

t.test(
  'clients that come back all at once take turns at reading, and who has left meanwhile has none',
  async (t) => {
    let reading = 0
    let most = 0
    const { follow, store, calls } = await open(t, (store) => ({
      ...store,
      async read(...args) {
        most = Math.max(most, ++reading)
        try {
          return await store.read(...args)
        } finally {
          reading--
        }
      },
    }))
    const job = await accepted(store)
    await move(store, job, started, completed)
    const followers = Array.from({ length: 300 }, () => subscribe(follow, job, 0))
    const leaving = followers.splice(100, 100)
    while (calls.read < 20) await turn()
    for (const each of leaving) each.subscription.stop()
    await Promise.all(followers.map((each) => each.ended))
    for (const each of followers) t.strictSame(each.seqs(), [1, 2, 3])
    t.ok(most <= 8)
    t.ok(calls.read < 300)
  },
)

t.test('a client that fills up with the terminal event has ended all the same', async (t) => {
  const { follow, store } = await open(t)
  const job = await accepted(store)
  const slow = subscribe(follow, job, 1, { hasRoom: () => false })
  await move(store, job, started, completed)
  await slow.ended
  t.strictSame(slow.seqs(), [2, 3])
  slow.subscription.resume()
})

t.test('a live event that is missing is read from the journal', async (t) => {
  const lost = new Set([3, 4, 7, 8, 9])
  const { follow, store } = await open(t, (store) => ({
    ...store,
    follow: (id, listener) => store.follow(id, deaf(listener, lost)),
  }))
  const job = await accepted(store)
  const subscriber = subscribe(follow, job, 0)
  await subscriber.until(1)
  for (let seq = 2; seq <= 10; seq++) {
    await move(store, job, progress)
    if (!lost.has(seq)) await subscriber.until(seq)
  }
  await move(store, job, completed)
  await subscriber.ended
  t.strictSame(subscriber.events, await all(store, job))
})

t.test('what is applied while the journal is read is not lost', async (t) => {
  const gate = createGate()
  const { follow, store } = await open(t, (store) => ({
    ...store,
    async read(...args) {
      const page = await store.read(...args)
      await gate.pass()
      return page
    },
  }))
  const job = await accepted(store)
  const heard = subscribe(createFollow({ store, log }), job, 0)
  await heard.until(1)
  gate.close()
  const subscriber = subscribe(follow, job, 0)
  await gate.reached()
  await move(store, job, started)
  await move(store, job, progress, progress)
  await heard.until(4)
  gate.open()
  await subscriber.until(4)
  t.strictSame(subscriber.seqs(), [1, 2, 3, 4])
})

for (const held of ['read', 'load', 'get'] as const) {
  t.test(`who stops while the journal is read gets nothing more (store.${held})`, async (t) => {
    const gate = createGate()
    const { follow, store } = await open(t, (store) => ({
      ...store,
      async read(...args) {
        if (held === 'read') await gate.pass()
        return store.read(...args)
      },
      async load(...args) {
        if (held === 'load') await gate.pass()
        return store.load(...args)
      },
      async get(...args) {
        if (held === 'get') await gate.pass()
        return store.get(...args)
      },
    }))
    const job = await accepted(store, { journalLimit: 10 })
    await move(store, job, ...Array.from({ length: 20 }, () => progress))
    gate.close()
    const subscriber = subscribe(follow, job, 0)
    await gate.reached()
    subscriber.subscription.stop()
    gate.open()
    while ((await followersOf(job)) > 0) await turn()
    await move(store, job, completed)
    const other = subscribe(follow, job, 0)
    await other.ended
    t.strictSame(subscriber.events, [])
  })
}

t.test('who stops before the channel is open leaves no channel behind', async (t) => {
  const gate = createGate()
  const { follow, store } = await open(t, (store) => ({
    ...store,
    async follow(...args) {
      await gate.pass()
      return store.follow(...args)
    },
  }))
  const job = await accepted(store)
  gate.close()
  const subscriber = subscribe(follow, job, 0)
  await gate.reached()
  subscriber.subscription.stop()
  const other = subscribe(follow, job, 0)
  gate.open()
  await other.until(1)
  await move(store, job, completed)
  await other.ended
  while ((await followersOf(job)) > 0) await turn()
  t.strictSame(subscriber.events, [])
})

t.test('a journal that was trimmed begins with a snapshot of the job', async (t) => {
  const { follow, store } = await open(t)
  const job = await accepted(store, { journalLimit: 10 })
  const early = subscribe(follow, job, 0)
  for (let seq = 2; seq <= 25; seq++) {
    await move(store, job, { kind: 'progress', queue: 'a', data: `${seq}` })
    await early.until(seq)
  }
  const { text = '' } = (await store.get(job.record.tenant, job.record.id)) ?? {}
  for (const after of [0, 14]) {
    const late = subscribe(follow, job, after)
    await late.until(25)
    const [snapshot, ...rest] = late.events
    t.match(JSON.parse(snapshot?.text ?? ''), {
      seq: 15,
      type: 'job.snapshot',
      job_id: job.record.id,
      status: 'queued',
      data: JSON.parse(text) as object,
      truncated: true,
    })
    t.ok(snapshot?.text.endsWith(`"data":${text},"truncated":true}`))
    t.strictSame(rest, await all(store, job))
  }
  const page = { events: [], trimmed: 15, more: false }
  t.strictSame(await withSnapshot(store, job.record.id, 15, page), [], 'who has the last trimmed one has all')
  const resumed = subscribe(follow, job, 15)
  await resumed.until(25)
  t.strictSame(resumed.seqs(), [16, 17, 18, 19, 20, 21, 22, 23, 24, 25])
  await move(store, job, completed)
  await early.ended
  t.strictSame(
    early.seqs(),
    Array.from({ length: 26 }, (_, index) => index + 1),
    'who was there got all',
  )
})

t.test('a client that was full for long gets a snapshot too', async (t) => {
  const { follow, store } = await open(t)
  const job = await accepted(store, { journalLimit: 10 })
  const slow = subscribe(follow, job, 0, { hasRoom: () => false })
  await slow.until(1)
  for (let seq = 2; seq <= 30; seq++) await move(store, job, progress)
  await move(store, job, completed)
  slow.subscription.resume()
  await slow.ended
  t.strictSame(slow.seqs(), [1, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31])
  t.equal(slow.events[1]?.type, 'job.snapshot')
  const { text = '' } = slow.events.at(-1) ?? {}
  t.ok(slow.events[1]?.text.includes(dataOf(text)), 'which shows the job as it has ended by now')
})

t.test('fifty followers whose connection is cut again and again miss and repeat nothing', async (t) => {
  const { follow } = await open(t)
  // What this node applied itself would not need the connection.
  const { store } = await open(t)
  const jobs = await Promise.all(Array.from({ length: 5 }, () => accepted(store)))
  const followers = jobs.flatMap((job, index) =>
    Array.from({ length: 10 }, (_, n) => {
      const random = randomOf(10 * index + n)
      return { job, recorder: subscribe(follow, job, 0, { hasRoom: () => random() < 0.9, resumes: true }) }
    }),
  )
  await Promise.all(followers.map(({ recorder }) => recorder.until(1)))
  const killer = redis.connect()
  for (let round = 1; round <= 8; round++) {
    let killed = 0
    for (let n = 0; n < 25; n++) {
      await Promise.all(jobs.map((job) => move(store, job, progress)))
      if (n === 3 * round) killed = Number(await killer.call('CLIENT', 'KILL', 'TYPE', 'pubsub'))
    }
    t.ok(killed > 0)
    await Promise.all(followers.map(({ recorder }) => recorder.until(1 + 25 * round)))
  }
  await Promise.all(jobs.map((job) => move(store, job, completed)))
  await Promise.all(followers.map(({ recorder }) => recorder.ended))
  for (const { job, recorder } of followers) t.strictSame(recorder.events, await all(store, job))
})

t.test('when the store is away, a follower goes on once it is back', async (t) => {
  const failures = { follow: 1, read: 1 }
  const { follow, store } = await open(t, (store) => ({
    ...store,
    async follow(...args) {
      if (failures.follow-- > 0) throw new Error('away')
      return store.follow(...args)
    },
    async read(...args) {
      if (failures.read-- > 0) throw new Error('away')
      return store.read(...args)
    },
  }))
  const job = await accepted(store)
  const subscribers = [subscribe(follow, job, 0), subscribe(follow, job, 0)]
  await Promise.all(subscribers.map((each) => each.until(1)))
  await move(store, job, completed)
  await Promise.all(subscribers.map((each) => each.ended))
  for (const each of subscribers) t.strictSame(each.seqs(), [1, 2])
})

t.test('waiting is over with the event, with the time, or when the client hangs up', async (t) => {
  const { follow, store } = await open(t)
  const job = await accepted(store)
  const { id } = job.record
  const long = { waitMs: 100_000, signal: new AbortController().signal }
  await waitFor(follow, id, 0, ({ seq }) => seq === 1, long)
  const waiting = waitFor(follow, id, 1, ({ terminal }) => terminal, long)
  await move(store, job, started)
  await move(store, job, progress)
  await waitFor(follow, id, 1, ({ seq }) => seq === 3, long)
  await waitFor(follow, id, 3, () => true, { ...long, waitMs: 1 })
  await waitFor(follow, id, 3, () => true, { ...long, signal: AbortSignal.abort() })
  const hangUp = new AbortController()
  const hungUp = waitFor(follow, id, 3, () => true, { ...long, signal: hangUp.signal })
  await turn()
  hangUp.abort()
  await hungUp
  await move(store, job, completed)
  await waiting
  await waitFor(follow, id, 0, () => false, long)

  const idle = await accepted(store)
  await waitFor(follow, idle.record.id, 1, () => true, { ...long, waitMs: 1 })
  while ((await followersOf(idle)) > 0) await turn()
  await waitFor(follow, uuidv7(), 0, () => true, long)
  while ((await followersOf(job)) > 0) await turn()
  t.pass('and nobody follows any more')
})

interface Recorder extends Subscriber {
  readonly events: readonly JobEvent[]
  readonly ended: Promise<void>
  readonly subscription: Subscription
  writes(): number
  ends(): number
  seqs(): number[]
  until(seq: number): Promise<void>
}

interface RecorderOptions {
  /** Whether there is room after a write. */
  readonly hasRoom?: () => boolean
  /** Whether it resumes by itself, a turn after it was full. */
  readonly resumes?: boolean
}

/** Follows a job and keeps what it gets. */
function subscribe(
  follow: Follow,
  job: NewJob,
  after: number,
  { hasRoom = () => true, resumes = false }: RecorderOptions = {},
): Recorder {
  const events: JobEvent[] = []
  const emitter = new EventEmitter().setMaxListeners(0)
  const ended = once(emitter, 'end').then(() => undefined)
  let writes = 0
  let ends = 0
  const subscriber: Subscriber = {
    write(batch) {
      writes++
      events.push(...batch)
      emitter.emit('write')
      const isFull = !hasRoom()
      if (isFull && resumes) setImmediate(() => subscription.resume())
      return !isFull
    },
    end() {
      ends++
      emitter.emit('end')
    },
  }
  const subscription = follow(job.record.id, after, subscriber)
  return {
    ...subscriber,
    events,
    ended,
    subscription,
    writes: () => writes,
    ends: () => ends,
    seqs: () => events.map(({ seq }) => seq),
    async until(seq) {
      while ((events.at(-1)?.seq ?? 0) < seq) await once(emitter, 'write')
    },
  }
}

/** A node: what follows, over a store that may be wrapped, and the bare store with what was asked of it. */
async function open(
  t: Test,
  wrap: (store: Store) => Store = (store) => store,
): Promise<{ follow: Follow; store: Store; calls: { follow: number; read: number } }> {
  // Connections break when a test cuts them.
  const connect = createConnect(redis.url, () => undefined)
  const client = connect('command')
  await once(client, 'ready')
  const store = createRedisStore(client, connect)
  t.teardown(async () => {
    await store.close()
    client.disconnect()
  })
  const calls = { follow: 0, read: 0 }
  const counted: Store = {
    ...store,
    follow(...args) {
      calls.follow++
      return store.follow(...args)
    },
    read(...args) {
      calls.read++
      return store.read(...args)
    },
  }
  return { follow: createFollow({ store: wrap(counted), log }), store, calls }
}

async function accepted(store: Store, fields: Partial<JobRecord> = {}): Promise<NewJob> {
  const job = newJob(fields)
  await store.accept(job)
  return job
}

/** Nodes that are told of a job. */
async function followersOf({ record: { id } }: NewJob): Promise<number> {
  const followers = await client.hget(`{quartet}:job:${id}`, 'followers')
  return followers?.trim().split(' ').length ?? 0
}

/** A listener to which live events with these seqs do not come through. */
function deaf(listener: Listener, lost: ReadonlySet<number>): Listener {
  return {
    ...listener,
    events(events) {
      const heard = events.filter(({ seq }) => !lost.has(seq))
      if (heard.length > 0) listener.events(heard)
    },
  }
}

/** Holds back whoever passes while it is closed. */
function createGate() {
  const emitter = new EventEmitter().setMaxListeners(0)
  let isOpen = true
  let reached: Promise<unknown> = Promise.resolve()
  return {
    async pass() {
      if (isOpen) return
      emitter.emit('reached')
      await once(emitter, 'open')
    },
    close() {
      isOpen = false
      reached = once(emitter, 'reached')
    },
    open() {
      isOpen = true
      emitter.emit('open')
    },
    /** Resolves once somebody has come since it was closed. */
    reached: () => reached,
  }
}
