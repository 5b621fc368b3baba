import { setTimeout as sleep } from 'node:timers/promises'
import { Worker, type Job } from 'bullmq'
import { leases, type SampleWorkerOptions } from './options.ts'

/** What this step reads of an order: what the three steps before it have made of it. */
interface Order {
  order_id: string
  pieces: number
  payment_id: string | null
  carrier: string
  tracking_number: string
  email?: string
}

async function notify(job: Job<Order>) {
  const { order_id, pieces, payment_id, carrier, tracking_number, email = null } = job.data
  if (email) await job.updateProgress({ percent: 50, message: `writing to ${email}` })
  await sleep(150)
  return { order_id, status: 'shipped', pieces, payment_id, carrier, tracking_number, notified: email }
}

/** Step 4 of an order, the last: tells the customer, and returns what becomes the job's result. */
export function createNotificationWorker(options: SampleWorkerOptions): Worker {
  return new Worker('notification', notify, { ...leases, concurrency: 10, ...options })
}
