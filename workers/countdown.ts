import { setTimeout as sleep } from 'node:timers/promises'
import { Worker, type Job } from 'bullmq'
import { leases, type SampleWorkerOptions } from './options.ts'

interface Launch {
  from: number
  interval_ms?: number
}

async function countDown(job: Job<Launch>) {
  const { from, interval_ms: intervalMs = 1_000 } = job.data
  for (let left = from; left > 0; left -= 1) {
    const percent = Math.round((100 * (from - left)) / from)
    await job.updateProgress({ percent, message: `${left}…` })
    await sleep(intervalMs)
  }
  return { liftoff: true }
}

/** Counts down `from` a number to zero, one step of progress every `interval_ms` (default: 1 s). */
export function createCountdownWorker(options: SampleWorkerOptions): Worker {
  return new Worker('countdown', countDown, { ...leases, concurrency: 50, ...options })
}
