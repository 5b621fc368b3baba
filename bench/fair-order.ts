import { once } from 'node:events'
import { Worker } from 'bullmq'
import type { FastifyInstance } from 'fastify'
import type { Redis } from 'ioredis'
import { createApiKey } from '../src/access/api-key.ts'
import { buildApp } from '../src/app.ts'
import { parseCatalog } from '../src/catalog.ts'
import { readConfig } from '../src/config.ts'
import { createConnect } from '../src/store/redis/connect.ts'
import { createRedisStore } from '../src/store/redis/redis-store.ts'
import { startRedis } from '../test/helper.ts'

/*
 * What fair order is worth and what it costs: `npm run bench:fair`. One tenant submits 50,000 jobs, then another its first,
 * then workers begin. Without and with, each with a gateway and a Redis of its own, in turns: A, B, B, A for what accepting
 * costs; the waits of the first two.
 */
const SIDES = [false, true, true, false]
const WARM_UP = 5_000
const JOBS = 50_000
/** Of these so many come alone, so many at a time; the others in batches. */
const ALONE = 5_000
const AT_ONCE = 64
const BATCH = 1_000
/** Of the sides that do not wait for the other tenant's job. */
const FEWER = 15_000
/** Jobs that workers take before what taking costs is read. */
const TAKEN = 10_000

interface Costs {
  readonly alone: Cpu
  readonly batched: Cpu
  readonly taken: number
}

/** µs per job. */
interface Cpu {
  readonly gateway: number
  readonly redis: number
}

const costs = new Map<boolean, Costs[]>(SIDES.map((isFair) => [isFair, []]))
for (const [round, isFair] of SIDES.entries()) {
  const closers: (() => unknown)[] = []
  try {
    const isWaitedFor = round < 2
    const {
      waits: [waited],
      ...each
    } = await measure(isFair, isWaitedFor ? JOBS : FEWER, isWaitedFor, (close) => closers.unshift(close))
    costs.get(isFair)?.push(each)
    if (waited) {
      const { before, ms } = waited
      console.log(
        `${name(isFair)}: ${before} jobs of ${JOBS} started before the other tenant's, ${Math.round(ms)} ms`,
      )
    }
  } finally {
    for (const close of closers) await close()
  }
}
for (const [isFair, all] of costs) {
  const show = (pick: (each: Costs) => number) => all.map((each) => pick(each).toFixed(0)).join(' and ')
  console.log(
    `${name(isFair)}, CPU µs per job: POST alone ${show(({ alone }) => alone.gateway)} in the gateway, ` +
      `${show(({ alone }) => alone.redis)} in Redis; in batches ${show(({ batched }) => batched.gateway)}, ` +
      `${show(({ batched }) => batched.redis)}; taken by a worker ${show(({ taken }) => taken)} in Redis`,
  )
}

function name(isFair: boolean): string {
  return isFair ? 'with fair order' : 'without'
}

async function measure(
  isFair: boolean,
  jobs: number,
  isWaitedFor: boolean,
  teardown: (close: () => unknown) => void,
) {
  const redis = await startRedis({ teardown })
  const connect = createConnect(redis.url, (error) => console.error(error))
  const steps = (queue: string) => ({ steps: [queue], fair: isFair })
  const app = await buildApp({
    config: readConfig({ REDIS_URL: redis.url, QUARTET_ROLES: 'http', QUARTET_AUTH: 'keys' }),
    catalog: parseCatalog({ types: { warm: steps('warm'), job: steps('job') } }),
    connect,
    logger: false,
  })
  teardown(() => app.close())
  await app.ready()
  const client = redis.connect()
  const [many, one] = [await keyOf(redis.url, 'many'), await keyOf(redis.url, 'one')]

  await batches(app, many, 'warm', WARM_UP)
  await alone(app, many, 'warm', WARM_UP)
  const costOfAlone = await cpuOf(client, ALONE, () => alone(app, many, 'job', ALONE))
  const costOfBatches = await cpuOf(client, jobs - ALONE, () => batches(app, many, 'job', jobs - ALONE))
  const { job_id: id } = (await post(app, one, '/jobs', { type: 'job' })).json<{ job_id: string }>()

  const startedAt = performance.now()
  const before = await redisCpu(client)
  let [count, taken] = [0, 0]
  const waits: { before: number; ms: number }[] = []
  const over = new EventTarget()
  const worker = new Worker(
    'job',
    async (job) => {
      if (job.id === id) waits.push({ before: count, ms: performance.now() - startedAt })
      count++
      if (count === TAKEN) taken = ((await redisCpu(client)) - before) / TAKEN
      if (taken > 0 && (waits.length > 0 || !isWaitedFor)) over.dispatchEvent(new Event('over'))
    },
    { connection: redis.connect({ maxRetriesPerRequest: null }), concurrency: 50, autorun: false },
  )
  teardown(() => worker.close(true))
  const running = worker.run()
  await Promise.race([once(over, 'over'), running])
  return { alone: costOfAlone, batched: costOfBatches, taken, waits: isWaitedFor ? waits : [] }
}

async function keyOf(url: string, tenant: string): Promise<string> {
  const connect = createConnect(url, (error) => console.error(error))
  const client = connect('command')
  await once(client, 'ready')
  const store = createRedisStore(client, connect)
  const about = { scopes: ['jobs:write'] as const, types: null, name: null, expiresAt: null }
  const { key } = await createApiKey(store.apiKeys, { tenant, createdAt: Date.now(), ...about })
  await store.close()
  client.disconnect()
  return key
}

async function batches(app: FastifyInstance, key: string, type: string, count: number): Promise<void> {
  const jobs = Array.from({ length: BATCH }, () => ({ type, input: { hello: 'world' } }))
  for (let sent = 0; sent < count; sent += BATCH) {
    const { outcomes } = (await post(app, key, '/jobs/batch', { jobs })).json<{
      outcomes: { status: number }[]
    }>()
    if (outcomes.some(({ status }) => status !== 202)) throw new Error('Expected 202 for each')
  }
}

async function alone(app: FastifyInstance, key: string, type: string, count: number): Promise<void> {
  let left = count
  const client = async () => {
    while (left-- > 0) {
      const { statusCode } = await post(app, key, '/jobs', { type, input: { hello: 'world' } })
      if (statusCode !== 202) throw new Error(`Expected 202, got ${statusCode}`)
    }
  }
  await Promise.all(Array.from({ length: AT_ONCE }, client))
}

function post(app: FastifyInstance, key: string, url: string, payload: object) {
  return app.inject({ method: 'POST', url, payload, headers: { authorization: `Bearer ${key}` } })
}

async function cpuOf(client: Redis, jobs: number, run: () => Promise<void>): Promise<Cpu> {
  const [own, before] = [process.cpuUsage(), await redisCpu(client)]
  await run()
  const { user, system } = process.cpuUsage(own)
  return { gateway: (user + system) / jobs, redis: ((await redisCpu(client)) - before) / jobs }
}

/** CPU time of Redis's main thread so far, µs. */
async function redisCpu(client: Redis): Promise<number> {
  const info = await client.info('cpu')
  const of = (field: string) =>
    Number(new RegExp(`^used_cpu_${field}_main_thread:([\\d.]+)`, 'm').exec(info)?.[1])
  return (of('user') + of('sys')) * 1_000_000
}
