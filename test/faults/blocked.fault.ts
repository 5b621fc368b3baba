import { setTimeout as delay } from 'node:timers/promises'
import type { Redis } from 'ioredis'
import t from 'tap'
import { startReceiver } from '../e2e/modes.ts'
import { startGatewayProcess } from '../e2e/processes.ts'
import { startRedis } from '../helper.ts'
import { startLoad, type Event } from './load.ts'
import { settle, times } from './report.ts'

/** Longer than the lease of a collector (5 s) and the lock of a worker (10 s): others have taken over when it wakes. */
const BLOCK_MS = times(45_000, 16_000)

t.test('a node whose event loop was blocked does nothing over that others have done', async (t) => {
  const redis = await startRedis(t)
  const receiver = await startReceiver(t)
  const node = await startGatewayProcess(t, { redis })
  const blocked = await startGatewayProcess(t, {
    redis,
    env: { BLOCK_MS: String(BLOCK_MS) },
    nodeArgs: ['--import', './test/faults/block.mjs'],
  })
  const told = readResults(redis.connect({ maxRetriesPerRequest: null }), 'countdown')
  const urls = [node.url, blocked.url]
  const job = { type: 'countdown', input: { from: 3, interval_ms: 50 }, callback_url: receiver.url }
  const load = startLoad({ urls, concurrency: 8, job })
  await load.whenAccepted(200)
  // Who would submit there would wait; those who have just done so do.
  urls[1] = node.url
  const since = Date.now()
  blocked.child.kill('SIGUSR2')
  await blocked.waitForLine(/^blocked$/)
  await blocked.waitForLine(/^goes on$/, BLOCK_MS + 30_000)
  t.ok(Date.now() - since >= BLOCK_MS)
  urls[1] = blocked.url
  await load.whenAccepted(load.accepted.length + 200)

  const journals = new Map<string, readonly Event[]>()
  const inspect = (events: readonly Event[]): void => void journals.set(events[0]?.job_id ?? '', events)
  await settle(t, `event loop blocked for ${BLOCK_MS / 1_000} s`, load, { url: node.url, inspect })
  const retried = [...journals.values()].filter((events) =>
    events.some(({ type }) => type === 'step.retrying'),
  )
  t.ok(retried.length > 0, 'its jobs were taken from it')

  const results = await told.stop()
  const unlike = [...journals].filter(([id, events]) => {
    const types = events.slice(1).map(({ type }) => type)
    return types.join() !== journalOf(results.get(id) ?? []).join()
  })
  t.same(unlike, [], 'every journal is what the result queue told, once and in its order')

  // More may be delivered than was promised: a job whose 202 was lost with its node is one of these.
  const awaited = new Set(journals.keys())
  const deliveries = new Map<string, Set<string>>()
  for (let read = 0; awaited.size > 0; await delay(100)) {
    for (; read < receiver.received.length; read += 1) {
      const body = receiver.received[read]?.body ?? ''
      const { job_id: id } = JSON.parse(body) as Event
      deliveries.set(id, (deliveries.get(id) ?? new Set<string>()).add(body))
      awaited.delete(id)
    }
  }
  const promised = [...deliveries].filter(([id]) => journals.has(id))
  t.equal(promised.length, journals.size, 'every end was delivered')
  const differing = promised.filter(([, bodies]) => bodies.size > 1)
  t.same(differing, [], 'and, where more than once, as the same bytes')
  t.ok(
    promised.every(([id, [body = '']]) => (JSON.parse(body) as Event).seq === journals.get(id)?.at(-1)?.seq),
    'that the journal ends with',
  )
})

/** What the journal must say after `job.queued`, if each entry of the result queue is applied once. */
function journalOf(results: readonly string[]): string[] {
  const types: Record<string, string> = {
    active: 'step.started',
    progress: 'job.progress',
    stalled: 'step.retrying',
    completed: 'job.completed',
    failed: 'job.failed',
  }
  const journal = results.flatMap((event) => types[event] ?? [])
  const end = journal.findIndex((type) => type === 'job.completed' || type === 'job.failed')
  return end === -1 ? journal : journal.slice(0, end + 1)
}

/** Reads a result queue as it is written, before the collectors trim it: each job's BullMQ events in their order. */
function readResults(redis: Redis, queue: string): { stop(): Promise<Map<string, string[]>> } {
  const results = new Map<string, string[]>()
  const stopping = new AbortController()
  let cursor = '0-0'
  const read = async (): Promise<number> => {
    const reply = await redis.xread('COUNT', 1_000, 'BLOCK', 200, 'STREAMS', `bull:${queue}:events`, cursor)
    const entries = reply?.[0]?.[1] ?? []
    for (const [id, fields] of entries) {
      cursor = id
      const jobId = fields[fields.indexOf('jobId') + 1] ?? ''
      results.set(jobId, [...(results.get(jobId) ?? []), fields[fields.indexOf('event') + 1] ?? ''])
    }
    return entries.length
  }
  const reading = (async () => {
    while (!stopping.signal.aborted) await read()
    while ((await read()) > 0) continue
  })()
  return {
    async stop() {
      stopping.abort()
      await reading
      return results
    },
  }
}
