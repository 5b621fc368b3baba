import { setTimeout as sleep } from 'node:timers/promises'
import { Worker, type Job } from 'bullmq'
import { leases, type SampleWorkerOptions } from './options.ts'

/** What this step reads of an order. All the rest passes through. */
interface Order {
  items: { sku: string; quantity: number }[]
}

async function reserve(job: Job<Order>) {
  const { items } = job.data
  let pieces = 0
  for (const [index, { sku, quantity }] of items.entries()) {
    await sleep(Math.max(200 / items.length, 20))
    pieces += quantity
    await job.updateProgress({
      percent: Math.round((100 * (index + 1)) / items.length),
      message: `reserved ${quantity} × ${sku}`,
    })
  }
  return { ...job.data, pieces }
}

/** Step 1 of an order: reserves item by item, and adds how many `pieces` that makes. */
export function createInventoryWorker(options: SampleWorkerOptions): Worker {
  return new Worker('inventory', reserve, { ...leases, concurrency: 10, ...options })
}
