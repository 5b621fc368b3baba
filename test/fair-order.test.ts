import { Queue } from 'bullmq'
import t from 'tap'
import { jobsOf, openFairQueue as open } from './fair-queue.ts'
import type { TestRedis } from './helper.ts'
import type { NewJob } from '../src/store/store.ts'
import { newJob } from './store-contract/jobs.ts'

/** The most that BullMQ itself takes for a priority. */
const BULLMQ_LIMIT = 2_097_151
/** BullMQ's `priority` of a job that waits for its time. */
const NO_TURN = '10000000000000000'

t.test('a job in a fair queue is what BullMQ itself would make of it, by either way in', async (t) => {
  const { client, queues, enqueue, intake } = await open(t)
  const [together, apart, own] = [newJob(), newJob({ tenant: 'other' }), newJob()]
  await intake(together)
  await enqueue(apart)
  await enqueue(apart)
  const { name, data, opts } = await jobOf(client, together)
  const queue = new Queue('a', { connection: client, skipVersionCheck: true })
  await queue.add(name, data, { ...opts, jobId: own.record.id })

  const seen = await Promise.all([together, apart, own].map((job) => everythingOf(client, job)))
  t.strictSame(seen[0], seen[2])
  t.strictSame(seen[1], seen[2])
  t.match(seen[0], { bull: { priority: '1' }, opts: { priority: 1, attempts: 100 } })
  const entries = await client.xrange('bull:a:events', '-', '+')
  t.strictSame(
    entries.map(([, fields]) => fields.join(' ')),
    [together, apart, own].flatMap(({ record: { id } }) => [
      `event added jobId ${id} name test`,
      `event waiting jobId ${id}`,
    ]),
    'and a repetition changes nothing',
  )
  t.equal(await client.zscore('bull:a:prioritized', own.record.id), String(2 ** 32 + 3))
  for (const { record } of [together, apart])
    t.equal((await queues.truth('a', record.id)).state, 'prioritized')
})

t.test('who comes late is behind one job of each of the others, however many wait', async (t) => {
  const { intake, work } = await open(t)
  await intake(...jobsOf('a', 500), ...jobsOf('b', 300))
  await work.start(100)
  await intake(...jobsOf('c', 3))
  t.strictSame(await work.start(9), ['a', 'b', 'c', 'a', 'b', 'c', 'a', 'b', 'c'])
  const rest = await work.start(600)
  t.equal(rest.filter((tenant) => tenant === 'a').length, 353)
  const shared = rest.slice(0, 400)
  for (const tenant of ['a', 'b']) t.equal(shared.filter((each) => each === tenant).length, 200)
})

t.test(
  'the jobs of a tenant start in the order in which they came, whichever node took them in',
  async (t) => {
    const { redis, intake, enqueue, work } = await open(t)
    const other = await open(t, redis)
    const jobs = jobsOf('a', 60)
    for (const [n, job] of jobs.entries()) {
      await [intake, enqueue, other.intake, other.enqueue][n % 4]?.(job)
      if (n % 10 === 5) await other.intake(...jobsOf('b', 2))
      if (n % 10 === 9) await work.start(4)
    }
    await work.start(48)
    const ids = jobs.map(({ record }) => record.id)
    t.strictSame(
      work.started.filter((id) => ids.includes(id)),
      ids,
    )
  },
)

t.test('a tenant that was idle has no credit, and one that had everything no debt', async (t) => {
  const { intake, work } = await open(t)
  await intake(...jobsOf('a', 200), ...jobsOf('b', 1))
  await work.start(101)
  // While b was idle a had a hundred; from here on they share.
  await intake(...jobsOf('b', 50))
  const next = await work.start(40)
  t.equal(next.filter((tenant) => tenant === 'b').length, 20)
  await work.start(110)
  t.equal(await work.finish(), 251)
  await intake(...jobsOf('a', 10), ...jobsOf('c', 10))
  t.strictSame(await work.start(4), ['a', 'c', 'a', 'c'], 'when nobody waits, all begin anew')
})

t.test('who submits the next job only when the last has started has his turn in each round', async (t) => {
  const { intake, work } = await open(t)
  await intake(...jobsOf('a', 30), ...jobsOf('b', 1))
  for (let round = 0; round < 10; round++) {
    t.strictSame((await work.start(2)).toSorted(), ['a', 'b'])
    await intake(...jobsOf('b', 1))
  }
})

t.test('a priority goes before turns: jobs without go first, and tenants share what is left', async (t) => {
  const { intake, enqueue, work } = await open(t)
  await intake(...jobsOf('a', 4, { priority: 7 }), ...jobsOf('a', 4, { priority: 2_097_151 }))
  await intake(...jobsOf('a', 4, { priority: 5 }))
  await enqueue(...jobsOf('b', 2, { priority: 7 }), ...jobsOf('b', 2, { priority: 2_097_151 }))
  await intake(...jobsOf('c', 2), ...jobsOf('a', 2))
  const order = (await work.start(20)).join('')
  t.equal(order, 'cacaaaaaababaaababaa', 'none, then 5, then 7, then the last ones')
})

t.test('a tenant with a priority that waited behind others has its turn when its time comes', async (t) => {
  const { intake, work } = await open(t)
  await intake(...jobsOf('a', 100, { priority: 1 }), ...jobsOf('b', 100))
  await work.start(100)
  await intake(...jobsOf('c', 2, { priority: 1 }))
  t.strictSame((await work.start(4)).toSorted(), ['a', 'a', 'c', 'c'])
})

t.test('a job that is tried again keeps its turn, which is no credit for others', async (t) => {
  const { intake, work } = await open(t)
  await intake(...jobsOf('a', 100))
  await work.start(50)
  const again = [await work.fail(0), await work.fail(7)]
  await intake(...jobsOf('b', 20))
  await work.start(2)
  t.strictSame(work.started.slice(-2), again)
  t.strictSame(await work.start(6), ['a', 'b', 'a', 'b', 'a', 'b'])
})

t.test(
  'a job that has waited for its delay has a turn from then on, also when it is tried again',
  async (t) => {
    const { bull, queues, enqueue, intake, comeDue, work } = await open(t)
    const [idle, busy] = jobsOf('a', 2, { notBefore: Date.now() + 60_000 }) as [NewJob, NewJob]
    await enqueue(idle, busy)
    // A worker that waits for it is sooner than the collector.
    await (await bull.getJob(idle.record.id))?.promote()
    await work.start(1)
    await queues.takeTurn(idle.record)
    await intake(...jobsOf('b', 20))
    const again = await work.fail(0)
    t.strictSame((await work.start(2)).toSorted(), ['a', 'b'])
    t.ok(work.started.slice(-2).includes(again))

    await intake(...jobsOf('a', 2))
    await comeDue(busy)
    await queues.takeTurn(busy.record)
    t.strictSame((await work.start(6)).toSorted(), ['a', 'a', 'a', 'b', 'b', 'b'])
    t.ok(work.started.slice(-2).includes(busy.record.id), 'behind those of its tenant that were there')
    t.strictSame(await work.start(2), ['b', 'b'])
  },
)

t.test(
  'a job that has no turn yet is behind all that have, whatever their priorities and turns',
  async (t) => {
    const { client, bull, queues, enqueue, intake, work } = await open(t)
    await intake(...jobsOf('a', 2))
    const beyond = String(BULLMQ_LIMIT + 1_000)
    await client.zadd('bull:a:turns', beyond, '0 a', beyond, '0 ')
    await intake(...jobsOf('a', 2), ...jobsOf('b', 2, { priority: BULLMQ_LIMIT }))
    const [late] = jobsOf('c', 1, { notBefore: Date.now() + 60_000 }) as [NewJob]
    await enqueue(late)
    await enqueue(late)
    t.match(await bull.getJob(late.record.id), { data: {}, opts: { attempts: 100 } })
    await (await bull.getJob(late.record.id))?.promote()
    t.equal((await work.start(7)).join(''), 'aaaabbc')
    await queues.takeTurn(late.record)
    t.not(await client.hget(`bull:a:${late.record.id}`, 'priority'), NO_TURN)
  },
)

t.test(
  'where tenants take turns no more, what was put off until then has the priority of its client',
  async (t) => {
    const { redis, bull, enqueue, intake, work } = await open(t)
    const other = await open(t, redis, false)
    for (const priority of [0, 3]) {
      const [late] = jobsOf('late', 1, { notBefore: Date.now() + 60_000, priority }) as [NewJob]
      await enqueue(late)
      await intake(...jobsOf('a', 1, { priority: 5 }))
      await (await bull.getJob(late.record.id))?.promote()
      await other.queues.takeTurn(late.record)
      await other.queues.takeTurn(late.record)
      t.strictSame(await work.start(2), ['late', 'a'])
    }
  },
)

t.test('turns do not run out: beyond the priorities that BullMQ itself takes all goes on', async (t) => {
  const { client, intake, enqueue, work } = await open(t)
  await intake(...jobsOf('a', 3))
  const far = BULLMQ_LIMIT * 1_000
  await client.zadd('bull:a:turns', String(far), '0 a', String(far - 1), '0 ')
  await intake(...jobsOf('a', 300))
  await work.start(4)
  await enqueue(...jobsOf('b', 3))
  t.strictSame(await work.start(6), ['a', 'b', 'a', 'b', 'a', 'b'])
  const again = await work.fail(9)
  await work.start(1)
  t.equal(work.started.at(-1), again, 'also for a job that is tried again')
  await work.start(296)
  t.equal(new Set(work.started).size, 306)
})

t.test('a queue with nothing in it keeps nothing of its turns', async (t) => {
  const { client, intake, work } = await open(t)
  await intake(...jobsOf('a', 20))
  await work.start(20)
  await work.finish()
  await intake(...jobsOf('b', 1))
  t.strictSame(await client.zrange('bull:a:turns', '0', '-1', 'WITHSCORES'), ['0 ', '0', '0 b', '1'])
})

t.test(
  'what is kept of turns is bounded by what waits, not by the priorities that clients have used',
  async (t) => {
    const { client, enqueue, intake, work } = await open(t)
    // For as long as one waits for its time the queue is not empty.
    await enqueue(...jobsOf('a', 1, { notBefore: Date.now() + 60_000 }))
    for (let priority = 1; priority <= 1_500; priority++) {
      await intake(...jobsOf('a', 1, { priority }))
      await work.start(1)
    }
    await work.finish()
    await intake(...jobsOf('b', 1, { priority: 2_000_000 }))
    t.ok((await client.zcard('bull:a:turns')) <= 1_010, String(await client.zcard('bull:a:turns')))
    await work.start(1)

    await intake(...jobsOf('a', 40))
    for (let n = 0; n < 30; n++) {
      await intake(...jobsOf(`tenant ${n}`, 1))
      await work.start(2)
    }
    const known = await client.zrangebyscore('bull:a:turns', 0, 2 ** 32)
    t.ok(known.length < 5, `of tenants whose turns are over nothing: ${known.join(', ')}`)
  },
)

async function jobOf(client: Awaited<ReturnType<TestRedis['connect']>>, { record: { id } }: NewJob) {
  const { name = '', data = '', opts = '' } = await client.hgetall(`bull:a:${id}`)
  const { jobId: _, ...options } = JSON.parse(opts) as Record<string, unknown>
  return { name, data: JSON.parse(data) as unknown, opts: options }
}

async function everythingOf(client: Awaited<ReturnType<TestRedis['connect']>>, { record: { id } }: NewJob) {
  const { opts = '', ...bull } = await client.hgetall(`bull:a:${id}`)
  const text = JSON.stringify({ bull, opts: JSON.parse(opts) as object })
  return JSON.parse(text.replaceAll(id, 'ID').replaceAll(/\d{13}/g, '0')) as object
}
