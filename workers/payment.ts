import { setTimeout as sleep } from 'node:timers/promises'
import { UnrecoverableError, Worker, type Job } from 'bullmq'
import { leases, type SampleWorkerOptions } from './options.ts'

/** What this step reads of an order. All the rest passes through, except the card. */
interface Order {
  amount_cents?: number
  currency?: string
  card?: string
}

async function charge(job: Job<Order>) {
  // The next steps, their logs and the result have no need of the card number.
  const { card, ...order } = job.data
  const { amount_cents: cents, currency = 'EUR' } = order
  if (card === undefined || cents === undefined) return { ...order, payment_id: null }

  await job.updateProgress({ percent: 10, message: 'asking the bank' })
  await sleep(150)
  // Another try would not help: this fails the job for good, however many attempts it has left.
  if (card.endsWith('0002')) throw new UnrecoverableError('card declined')

  const amount = new Intl.NumberFormat('en', { style: 'currency', currency }).format(cents / 100)
  await job.updateProgress({ percent: 60, message: `charging ${amount}` })
  await sleep(150)
  // The job's id is the idempotency key: should this step run twice after a crash, the bank charges once.
  return { ...order, currency, payment_id: `pay_${job.id}` }
}

/**
 * Step 2 of an order: charges the card, and swaps it for a `payment_id`. An order without a card or an amount
 * goes on invoice (`payment_id` is null); a card that ends in 0002 is declined.
 */
export function createPaymentWorker(options: SampleWorkerOptions): Worker {
  return new Worker('payment', charge, { ...leases, concurrency: 10, ...options })
}
