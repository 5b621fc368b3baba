import { setTimeout as delay } from 'node:timers/promises'
import { Worker, type Job } from 'bullmq'
import { Redis } from 'ioredis'
import { createEchoWorker } from '../workers/echo.ts'

/*
 * The workers of both sides, the very same process: `echo`, and `ticks`, which reports progress as it is told. Nothing
 * here knows which gateway the jobs came from.
 */

/** Some progress events. */
interface Round {
  readonly count: number
  /** Between one event and the next. Without it each follows as soon as BullMQ has the one before. */
  readonly interval_ms?: number
  /** All of them are sent before the first is answered. */
  readonly at_once?: boolean
}

interface Ticks {
  readonly rounds: readonly Round[]
  /** A list in Redis: each round begins when something is pushed there. One such job at a time. */
  readonly gate?: string
}

const GATE_S = 60
const url = process.env['REDIS_URL'] ?? ''
const connection = new Redis(url, { maxRetriesPerRequest: null })
const gates = connection.duplicate()

const workers = [
  createEchoWorker({ connection }),
  new Worker('ticks', (job: Job<Ticks>) => tick(job), { connection, concurrency: 50 }),
]
for (const worker of workers) worker.on('error', (error) => console.error(error))
await Promise.all(workers.map((worker) => worker.waitUntilReady()))
console.log('works')

async function tick(job: Job<Ticks>): Promise<{ sent: number }> {
  let n = 0
  for (const round of job.data.rounds) {
    const { gate } = job.data
    if (gate !== undefined && !(await gates.blpop(gate, GATE_S)))
      throw new Error(`Expected gate ${gate} to open, got nothing in ${GATE_S} s`)
    await run(round)
  }
  return { sent: n }

  async function run({
    count,
    interval_ms: intervalMs = 0,
    at_once: isAtOnce = false,
  }: Round): Promise<void> {
    const startedAt = performance.now()
    const sent: Promise<void>[] = []
    for (let i = 0; i < count; i++) {
      const wait = startedAt + i * intervalMs - performance.now()
      if (intervalMs > 0 && wait > 0) await delay(wait)
      const report = job.updateProgress({ output: { n: n++, at: monotonicMs() } })
      if (isAtOnce) sent.push(report)
      else await report
    }
    await Promise.all(sent)
  }
}

/** By the clock that all processes of the machine share. */
function monotonicMs(): number {
  return Number(process.hrtime.bigint()) / 1e6
}
