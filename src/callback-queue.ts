import { Queue } from 'bullmq'
import { callbackQueue } from './catalog.ts'
import type { HandOver } from './follow-up.ts'
import type { Client } from './store/redis/connect.ts'
import type { Delivery, Store } from './store/store.ts'

/** The data of a delivery's BullMQ job: which event of which job. Its text stays in the journal. */
export interface DeliveryData extends Delivery {
  readonly job_id: string
}

/**
 * Waits between the tries of a delivery, each ± 20 % (docs/PROTOCOL.md "Webhook"). The first try is at once.
 * Milliseconds.
 */
export const deliverySchedule: readonly number[] = [
  5_000, 30_000, 120_000, 600_000, 3_600_000, 10_800_000, 28_800_000, 86_400_000,
]

export interface CallbackQueue {
  readonly handOver: HandOver
  /** Says that a delivery is over, and hands over the job's next one. */
  settle(id: string, delivery: Delivery): Promise<void>
  close(): Promise<void>
}

/**
 * The queue of webhook deliveries. The store says which event of a job is under way, one at a time and in order;
 * BullMQ says when it is tried. So a repeated hand-over is harmless, and a lost one can be made again.
 */
export function createCallbackQueue(redis: Client, prefix: string, store: Store): CallbackQueue {
  const queue = new Queue<DeliveryData>(callbackQueue, { connection: redis, prefix, skipVersionCheck: true })
  // The connection is ours and reports its own errors; without a listener the event would throw.
  queue.on('error', () => undefined)

  return {
    handOver: async (id) => add(id, await store.nextDelivery(id, null)),
    settle: async (id, delivery) => add(id, await store.nextDelivery(id, delivery)),
    close: () => queue.close(),
  }

  async function add(id: string, delivery: Delivery | null): Promise<void> {
    if (!delivery) return
    await queue.add(
      'deliver',
      { job_id: id, ...delivery },
      {
        jobId: `${id}.${delivery.seq}.${delivery.generation}`,
        attempts: deliverySchedule.length + 1,
        backoff: { type: 'schedule' },
        // What is under way is in the store; a delivery that BullMQ gave up can be handed over again.
        removeOnComplete: true,
        removeOnFail: true,
      },
    )
  }
}
