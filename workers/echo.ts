import { Worker, type Job } from 'bullmq'
import { leases, type SampleWorkerOptions } from './options.ts'

/** Returns its input, whatever it is. */
export function createEchoWorker(options: SampleWorkerOptions): Worker {
  return new Worker('echo', async (job: Job<unknown>) => job.data, { ...leases, concurrency: 50, ...options })
}
