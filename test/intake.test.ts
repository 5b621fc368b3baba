import { once } from 'node:events'
import { createConnection, createServer, type AddressInfo } from 'node:net'
import t, { type Test } from 'tap'
import { parseCatalog } from '../src/catalog.ts'
import { createQueues } from '../src/queues.ts'
import { createConnect } from '../src/store/redis/connect.ts'
import { createRedisStore } from '../src/store/redis/redis-store.ts'
import type { NewJob } from '../src/store/store.ts'
import { startRedis, type TestRedis } from './helper.ts'
import { keyed, newJob } from './store-contract/jobs.ts'

const types = { test: { steps: [{ queue: 'a', attempts: 5, backoff_ms: 70 }] } }

t.test('a job is taken in and enqueued as by the store and BullMQ themselves', async (t) => {
  const { client, store, queues, takeIn } = await open(t)
  const [together, apart] = [newJob(), newJob()]
  t.strictSame(await takeIn(together), { status: 'accepted' })
  await store.accept(apart)
  await queues.enqueue(apart.record, apart.input)

  const seen = await Promise.all(
    [together, apart].map(async ({ record: { id } }) => {
      const { opts = '', ...bull } = await client.hgetall(`bull:a:${id}`)
      const own = await client.hgetall(`{quartet}:job:${id}`)
      const journal = await client.lrange(`{quartet}:journal:${id}`, 0, -1)
      const text = JSON.stringify({ bull, options: JSON.parse(opts) as object, own, journal })
      return JSON.parse(text.replaceAll(id, 'ID').replaceAll(/\d{13}/g, '0')) as object
    }),
  )
  t.strictSame(seen[0], seen[1])
  const entries = await client.xrange('bull:a:events', '-', '+')
  const told = entries.map(([, fields]) => fields.join(' '))
  t.strictSame(
    told,
    [together, apart].flatMap(({ record: { id } }) => [
      `event added jobId ${id} name test`,
      `event waiting jobId ${id}`,
    ]),
  )
  for (const { record } of [together, apart]) t.equal((await queues.truth('a', record.id)).state, 'waiting')
})

t.test(
  'what is submitted at the same time goes in by one call, each job with an outcome of its own',
  async (t) => {
    const { client, queues, takeIn } = await open(t)
    const first = newJob({}, { idempotency: keyed('K') })
    await takeIn(first)
    const calls = async () => Number(/evalsha?:calls=(\d+)/.exec(await client.info('commandstats'))?.[1] ?? 0)
    const before = await calls()
    const [again, other, free] = [
      newJob({}, { idempotency: keyed('K') }),
      newJob({}, { idempotency: keyed('K', 'another body') }),
      newJob(),
    ]
    t.strictSame(await Promise.all([again, other, free].map(takeIn)), [
      { status: 'duplicate', id: first.record.id },
      { status: 'mismatch', id: first.record.id },
      { status: 'accepted' },
    ])
    t.equal((await calls()) - before, 1)
    const states = await Promise.all([again, other, free].map(({ record: { id } }) => queues.truth('a', id)))
    t.strictSame(
      states.map(({ state }) => state),
      ['unknown', 'unknown', 'waiting'],
    )
  },
)

t.test(
  'of a crowd that comes at once exactly as many are taken in as may wait, and no other is enqueued',
  async (t) => {
    const { client, takeIn } = await open(t)
    const crowd = Array.from({ length: 350 }, () => newJob({}, { maxWaiting: 210 }))
    const outcomes = await Promise.all(crowd.map(takeIn))
    const isIn = outcomes.map(({ status }) => status === 'accepted')
    t.equal(isIn.filter(Boolean).length, 210)
    const queued = await client.lrange('bull:a:wait', 0, -1)
    t.strictSame(
      queued.toReversed(),
      crowd.filter((_, index) => isIn[index]).map(({ record }) => record.id),
      'in the order in which they came',
    )
  },
)

t.test('of 1,000 jobs all ten calls are under way before the first is answered', async (t) => {
  const redis = await startRedis(t)
  const slow = await startHolding(t, redis.port)
  const { client, takeIn } = await open(t, redis, `redis://127.0.0.1:${slow.port}`)
  // With the first of a connection goes the whole script.
  await takeIn(newJob())
  const jobs = Array.from({ length: 1_000 }, () => newJob())
  slow.holdUntil('evalsha', 10)
  const outcomes = await Promise.all(jobs.map(takeIn))
  t.ok(outcomes.every(({ status }) => status === 'accepted'))
  t.strictSame(
    (await client.lrange('bull:a:wait', 0, -2)).toReversed(),
    jobs.map(({ record }) => record.id),
  )
})

t.test('jobs of several tenants and large ones keep their own input', async (t) => {
  const { client, takeIn } = await open(t)
  const jobs = Array.from({ length: 12 }, (_, n) =>
    newJob({ tenant: `tenant ${n % 3}` }, { input: JSON.stringify(`${n} ${'é"\\\n'.repeat(20_000)}`) }),
  )
  await Promise.all(jobs.map(takeIn))
  for (const { record, input } of jobs) {
    t.equal(await client.hget(`bull:a:${record.id}`, 'data'), input)
    t.equal(await client.hget(`{quartet}:job:${record.id}`, 'input'), input)
    t.not(await client.zscore(`{quartet}:jobs:${record.tenant}`, record.id), null)
  }
})

t.test('a store that is away is told to all who were in the call', async (t) => {
  const { redis, takeIn } = await open(t)
  await redis.stop()
  const outcomes = await Promise.allSettled([newJob(), newJob()].map(takeIn))
  t.strictSame(
    outcomes.map(({ status }) => status),
    ['rejected', 'rejected'],
  )
})

async function open(t: Test, known?: TestRedis, url?: string) {
  const redis = known ?? (await startRedis(t))
  const connect = createConnect(url ?? redis.url, () => undefined)
  const client = connect('command')
  await once(client, 'ready')
  const store = createRedisStore(client, connect)
  const queues = createQueues(client, 'bull', parseCatalog({ types }), store.now)
  t.teardown(async () => {
    await queues.close()
    await store.close()
    client.disconnect()
  })
  const takeIn = (job: NewJob) => {
    const addition = queues.additionOf(job.record)
    if (!addition) throw new Error(`Expected job ${job.record.id} to be one for the plain script`)
    return store.intake(job, addition)
  }
  return { redis, client: redis.connect(), store, queues, takeIn }
}

/** A way to Redis on which, once asked to, no answer comes back until so many of a command are on their way. */
async function startHolding(t: Test, redisPort: number) {
  let [wanted, missing] = ['none', 0]
  const held: (() => void)[] = []
  const server = createServer((client) => {
    const redis = createConnection(redisPort, '127.0.0.1')
    let tail = ''
    client.on('data', (chunk) => {
      const pieces = (tail + chunk.toString('latin1')).split(wanted)
      missing -= pieces.length - 1
      tail = (pieces.at(-1) ?? '').slice(1 - wanted.length)
      redis.write(chunk)
      if (missing <= 0) for (const answer of held.splice(0)) answer()
    })
    redis.on('data', (chunk) => {
      if (missing > 0) held.push(() => client.write(chunk))
      else client.write(chunk)
    })
    client.on('close', () => redis.destroy()).on('error', () => undefined)
    redis.on('close', () => client.destroy()).on('error', () => undefined)
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => server.close())
  return {
    port: (server.address() as AddressInfo).port,
    holdUntil: (command: string, count: number) => void ([wanted, missing] = [`\r\n${command}\r\n`, count]),
  }
}
