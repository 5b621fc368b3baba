import { setMaxListeners } from 'node:events'
import { setTimeout as delay } from 'node:timers/promises'
import { Worker, type Job } from 'bullmq'
import t from 'tap'
import { ndjson, seqOf } from '../e2e/modes.ts'
import { startGatewayProcess, submit } from '../e2e/processes.ts'
import { spawnProcess, startRedis } from '../helper.ts'
import { times } from './report.ts'

const PER_SECOND = 1_000
const types = { ended: { steps: ['ended'] }, running: { steps: ['running'] } }

interface Report {
  readonly statuses: Record<string, number>
  /** The first few. */
  readonly faults: readonly string[]
  readonly faulty: number
  readonly perSecond: number
  readonly p50: number
  readonly p99: number
}

t.test('a thousand clients a second that come back get exactly what they have missed', async (t) => {
  const redis = await startRedis(t)
  const gateway = await startGatewayProcess(t, { redis, types, roles: 'http,collect' })
  const storm = new AbortController()
  setMaxListeners(0, storm.signal)
  const work = (queue: string, processor: (job: Job) => Promise<unknown>) => {
    const connection = redis.connect({ maxRetriesPerRequest: null })
    const worker = new Worker(queue, processor, { connection, concurrency: 20 })
    t.teardown(() => worker.close(true))
  }
  work('ended', async (job) => {
    for (const percent of [20, 40, 60, 80]) await job.updateProgress({ percent })
  })
  work('running', async (job) => {
    for (let n = 1; n <= 3 || !storm.signal.aborted; n++) {
      await job.updateProgress({ message: `${n}` })
      if (n >= 3) await delay(2_000, null, { signal: storm.signal }).catch(() => undefined)
    }
  })
  const ids = await Promise.all(
    Array.from({ length: 40 }, (_, n) => submit(gateway.url, { type: n % 2 ? 'ended' : 'running' })),
  )
  const jobs = await Promise.all(ids.map(async (id, n) => ({ id, seq: await seqAfter(id, n % 2 ? 7 : 5) })))

  const seconds = times(10, 3)
  const load = [String(PER_SECOND), String(seconds), JSON.stringify(jobs)]
  const clients = spawnProcess(
    t,
    ['node', '--import', 'tsx', 'test/faults/storm-clients.ts', gateway.url].concat(load),
  )
  await clients.waitForLine(/^opened$/, 120_000)
  storm.abort()
  const [text] = await clients.waitForLine(/^\{.*$/, 60_000)
  const { statuses, faults, faulty, perSecond, p50, p99 } = JSON.parse(text) as Report
  t.comment(
    `reconnect storm: ${PER_SECOND * seconds} clients at ${perSecond} a second, ${statuses['200']} streams, ` +
      `${statuses['204']} had all, ${faulty} with a gap or repeat · first byte p50 ${p50} ms p99 ${p99} ms`,
  )
  t.same(faults, [])
  t.same(Object.keys(statuses).toSorted(), ['200', '204'])
  t.equal((statuses['200'] ?? 0) + (statuses['204'] ?? 0), PER_SECOND * seconds)

  /** @returns the job's seq once it has come so far */
  async function seqAfter(id: string, seq: number): Promise<number> {
    for await (const event of ndjson(gateway.url, id, 0)) if (seqOf(event) === seq) break
    return (
      await fetch(`${gateway.url}/jobs/${id}`).then((answer) => answer.json() as Promise<{ seq: number }>)
    ).seq
  }
})
