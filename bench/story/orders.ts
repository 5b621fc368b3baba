import { randomUUID } from 'node:crypto'
import { setTimeout as delay } from 'node:timers/promises'
import { getJson, post } from './post.ts'
import { LAST_SEQ, newJob, PATIENCE_MS } from './story.ts'

export interface Order {
  readonly id: string
  readonly ms: number
  /** How often it had to be sent until it was accepted. */
  readonly tries: number
}

export interface Ended {
  readonly status: string
  readonly finishedAt: number
}

/** A wait before an order is sent again, and as much again at random: they shall not all come at once. */
const AGAIN_MS = 1_000

/** As clients are to do it: who gets no 202 sends the order again after a while, under the same key. */
export async function submit(url: string): Promise<Order> {
  const options = { timeoutMs: PATIENCE_MS, headers: { 'idempotency-key': randomUUID() } }
  const order = newJob()
  const since = performance.now()
  for (let tries = 1; ; tries++) {
    const { status, text } = await post(`${url}/jobs`, order, options)
    if (status !== 202 && status !== 200) {
      await delay(AGAIN_MS * (1 + Math.random()))
      continue
    }
    return { id: (JSON.parse(text) as { job_id: string }).job_id, ms: performance.now() - since, tries }
  }
}

/** How each order has ended, once all have: a long poll after another. */
export async function endOf(url: string, orders: readonly Order[]): Promise<Ended[]> {
  const ended: Ended[] = []
  for (const { id } of orders) {
    for (let after = LAST_SEQ - 1; ;) {
      const job = await getJson<{ status: string; seq: number; finished_at: string | null }>(
        `${url}/jobs/${id}?after=${after}`,
        { prefer: 'wait=60' },
      )
      after = job.seq
      if (job.finished_at === null) continue
      ended.push({ status: job.status, finishedAt: Date.parse(job.finished_at) })
      break
    }
  }
  return ended
}

export function isDone({ status }: Ended): boolean {
  return status === 'completed'
}

export function msOf(orders: readonly Order[]): number[] {
  return orders.map(({ ms }) => ms)
}
