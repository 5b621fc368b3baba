import { once } from 'node:events'
import { setTimeout as delay } from 'node:timers/promises'
import type { FastifyInstance } from 'fastify'
import type { Redis } from 'ioredis'
import { buildApp } from '../src/app.ts'
import { readCatalog } from '../src/catalog.ts'
import { readConfig } from '../src/config.ts'
import { createConnect } from '../src/store/redis/connect.ts'
import { startRedis } from '../test/helper.ts'
import { createEchoWorker } from '../workers/echo.ts'

/*
 * What a finished echo job costs in Redis until it expires: `npm run bench:memory`. A gateway, a worker and a Redis of
 * their own; jobs are submitted in growing numbers, and the growth of used_memory is divided by them once all is quiet.
 */
const WARM_UP = 500
const SIZES = [2_000, 10_000]
const AT_ONCE = 50
const LIMIT_BYTES = 1_536
const EVENTS = 'bull:echo:events'
const BODY = { type: 'echo', input: { hello: 'world' } }

const closers: (() => unknown)[] = []
try {
  process.exitCode = (await main()) <= LIMIT_BYTES ? 0 : 1
} finally {
  for (const close of closers) await close()
}

async function main(): Promise<number> {
  const redis = await startRedis({ teardown: (close: () => unknown) => void closers.unshift(close) })
  const connect = createConnect(redis.url, (error) => console.error(error))
  const config = readConfig({ REDIS_URL: redis.url, QUARTET_ROLES: 'http,collect' })
  const catalog = readCatalog('quartet.config.json')
  const app = await buildApp({ config, catalog, connect, logger: false })
  closers.unshift(() => app.close())
  const connection = redis.connect({ maxRetriesPerRequest: null })
  const worker = createEchoWorker({ connection, prefix: config.bullmqPrefix })
  worker.on('error', (error) => console.error(error))
  closers.unshift(() => worker.close())
  await app.ready()

  const client = redis.connect()
  await once(client, 'ready')
  await finish(app, WARM_UP)
  let before = await memoryOf(client)
  let perJob = 0
  let last: string[] = []
  for (const size of SIZES) {
    const startedAt = performance.now()
    last = await finish(app, size)
    const seconds = (performance.now() - startedAt) / 1_000
    const after = await memoryOf(client)
    perJob = (after - before) / size
    console.log(
      `${size} jobs in ${seconds.toFixed(1)} s (${Math.round(size / seconds)}/s): ${Math.round(perJob)} bytes each`,
    )
    before = after
  }
  await breakDown(client, last, WARM_UP + SIZES.reduce((sum, size) => sum + size, 0))
  console.log(`total ${Math.round(perJob)} bytes a job, at most ${LIMIT_BYTES} wanted`)
  return perJob
}

/** Submits jobs and waits until the journal of each has its end. */
async function finish(app: FastifyInstance, count: number): Promise<string[]> {
  const ids: string[] = []
  let submitted = 0
  const submitter = async () => {
    while (submitted++ < count) {
      const response = await app.inject({ method: 'POST', url: '/jobs', payload: BODY })
      if (response.statusCode !== 202) throw new Error(`Expected 202, got ${response.statusCode}`)
      ids.push(response.json<{ job_id: string }>().job_id)
    }
  }
  await Promise.all(Array.from({ length: AT_ONCE }, submitter))
  for (const id of ids) {
    for (let tries = 0; (await app.inject(`/jobs/${id}`)).statusCode !== 200; tries++) {
      if (tries === 1_000) throw new Error(`Expected job ${id} to end, got none of it in 10 s`)
      await delay(10)
    }
  }
  return ids
}

/**
 * Bytes in use once BullMQ's copies are gone, which are kept for a minute; without the buffers of connections and of the
 * append-only file, and without the result queue, which holds the last minute's events and no more.
 */
async function memoryOf(client: Redis): Promise<number> {
  while ((await client.zcard('bull:echo:completed')) > 0) await delay(1_000)
  const events = (await client.memory('USAGE', EVENTS, 'SAMPLES', 0)) ?? 0
  const info = await client.info('memory')
  const bytes = (name: string) => Number(new RegExp(`^${name}:(\\d+)`, 'm').exec(info)?.[1] ?? 0)
  return bytes('used_memory') - bytes('mem_clients_normal') - bytes('mem_aof_buffer') - events
}

/** Where the bytes are, by MEMORY USAGE: the mean of the last jobs' keys, and shared keys divided by all jobs. */
async function breakDown(client: Redis, ids: readonly string[], total: number): Promise<void> {
  const usages = new Map<string, number>()
  const add = (name: string, bytes: number) => usages.set(name, (usages.get(name) ?? 0) + bytes)
  const sample = ids.slice(-200)
  const usage = async (key: string) => (await client.memory('USAGE', key, 'SAMPLES', 0)) ?? 0
  for (const id of sample) {
    for (const key of await keysOf(client, id))
      add(key.replace(id, '<id>'), (await usage(key)) / sample.length)
  }
  for (const key of await client.keys('*')) {
    if (/[0-9a-f]{8}-[0-9a-f]{4}-/.test(key)) continue
    const bytes = (await usage(key)) / total
    if (bytes >= 1) add(key, bytes)
  }
  for (const [name, bytes] of usages) console.log(`  ${name.padEnd(28)} ${Math.round(bytes)}`)
}

async function keysOf(client: Redis, id: string): Promise<string[]> {
  const known = [`{quartet}:job:${id}`, `{quartet}:journal:${id}`, `bull:echo:${id}`]
  const there = await Promise.all(known.map((key) => client.exists(key)))
  return known.filter((_, index) => there[index] === 1)
}
