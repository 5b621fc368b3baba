import { once } from 'node:events'
import { setTimeout as delay } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { v7 as uuidv7 } from 'uuid'
import { parseCatalog } from '../src/catalog.ts'
import { createQueues } from '../src/queues.ts'
import { createResultQueue } from '../src/result-queue.ts'
import { createConnect } from '../src/store/redis/connect.ts'
import { createRedisStore } from '../src/store/redis/redis-store.ts'
import { startGateway } from './gateway.ts'
import { startRedis } from './helper.ts'
import { newJob } from './store-contract/jobs.ts'

const types = { test: { steps: ['a', 'b'], attempts: 1 } }

t.test('what was told more than a minute ago is settled once, and then dropped', async (t) => {
  const redis = await startRedis(t)
  const client = redis.connect()
  const results = createResultQueue(client, () => client, 'bull', 'a')
  const now = Date.now()
  const add = (ms: number, event: string, jobId: string) =>
    client.xadd('bull:a:events', `${ms}-0`, 'event', event, 'jobId', jobId)
  // More than are looked through at a time.
  for (let n = 0; n < 1_100; n++) await add(now - 200_000 + n, n % 2 === 0 ? 'completed' : 'active', `${n}`)
  await add(now - 70_000, 'failed', 'failed')
  await add(now - 69_000, 'completed', 'behind')
  await add(now - 68_000, 'completed', 'at the cursor')
  await add(now - 67_000, 'completed', 'ahead')
  await add(now - 10_000, 'completed', 'young')
  const told: string[] = []
  const settle = async (ids: readonly string[]) => void told.push(...ids)
  const cursor = `${now - 68_000}-0`
  t.equal(await results.trim(cursor, settle), true)
  t.equal(await results.trim(cursor, settle), true)
  t.equal(await results.trim(cursor, settle), false)
  t.equal(await results.trim(cursor, settle), false)
  const even = Array.from({ length: 550 }, (_, n) => `${2 * n}`)
  t.strictSame(told, [...even, 'behind'])
  t.equal(await results.wasCutPast(cursor), false)
  const left = await results.read(null, 2_000, 1)
  t.ok(left.length < 200, 'but for the rest of a node')
  const ends = left.slice(-3).map(({ jobId }) => jobId)
  t.strictSame(ends, ['at the cursor', 'ahead', 'young'])

  const later = `${now}-0`
  await t.rejects(
    results.trim(later, () => Promise.reject(new Error('away'))),
    { message: 'away' },
  )
  t.equal(await results.trim(later, settle), false)
  t.strictSame(told.slice(551), ['at the cursor', 'ahead'], 'what could not be settled is settled later')
})

t.test('BullMQ’s copy of a completed job goes, but not of one that is still at that step', async (t) => {
  const redis = await startRedis(t)
  const client = redis.connect()
  const { store, queues } = await openStore(t, redis.url)
  const [done, next, still] = [
    newJob({ route: ['a'] }),
    newJob({ route: ['a', 'b'] }),
    newJob({ route: ['a'] }),
  ]
  for (const job of [done, next]) await store.accept(job)
  const gone = newJob()
  const foreign = `not-ours-${uuidv7()}`
  const ids = [done, next, still, gone].map(({ record }) => record.id)
  for (const [index, id] of [foreign, ...ids].entries()) {
    // As they are after a minute and more: the copy, and the entry that told of it.
    await client.hset(`bull:a:${id}`, {
      name: 'test',
      data: '{}',
      opts: '{}',
      timestamp: 1,
      returnvalue: '1',
    })
    await client.zadd('bull:a:completed', 1, id)
    await client.xadd(
      'bull:a:events',
      `${1_000 + index}-0`,
      'event',
      'completed',
      'jobId',
      id,
      'returnvalue',
      '1',
    )
  }
  // The entry at the cursor stays.
  await client.xadd('bull:a:events', '2000-0', 'event', 'drained')
  await startGateway(t, types, { redis })
  while ((await store.cursor('a')) === null) await delay(10)
  // The collector has passed it by, so that its end was never applied.
  await store.accept(still)
  while ((await queues.truth('a', gone.record.id)).state !== 'unknown') await delay(100)
  for (const job of [done, next]) t.equal((await queues.truth('a', job.record.id)).state, 'unknown')
  for (const id of [still.record.id, foreign]) t.equal((await queues.truth('a', id)).state, 'completed')
  const jobs = await store.load([done, next, still].map(({ record }) => record.id))
  t.match(jobs, [
    { record: { status: 'completed' } },
    { record: { status: 'queued', step: 1 } },
    { record: { status: 'queued', step: 0 } },
  ])
})

async function openStore(t: Test, url: string) {
  const connect = createConnect(url, () => undefined)
  const client = connect('command')
  await once(client, 'ready')
  const store = createRedisStore(client, connect)
  const queues = createQueues(client, 'bull', parseCatalog({ types }), store.now)
  t.teardown(async () => {
    await queues.close()
    await store.close()
    client.disconnect()
  })
  return { store, queues }
}
