import { setTimeout as sleep } from 'node:timers/promises'
import { Worker, type Job } from 'bullmq'
import { leases, type SampleWorkerOptions } from './options.ts'

/** What this step reads of an order. All the rest passes through. */
interface Order {
  carrier?: string
}

async function ship(job: Job<Order>) {
  const { carrier = 'post' } = job.data
  await job.updateProgress({ percent: 50, message: `handing over to ${carrier}` })
  await sleep(250)
  if (carrier === 'flaky' && job.attemptsMade === 0) throw new Error('carrier did not answer')
  return { ...job.data, carrier, tracking_number: `QT-${job.id?.slice(-12).toUpperCase()}` }
}

/** Step 3 of an order: adds a `tracking_number`. The carrier "flaky" fails the first attempt, and only it. */
export function createShippingWorker(options: SampleWorkerOptions): Worker {
  return new Worker('shipping', ship, { ...leases, concurrency: 10, ...options })
}
