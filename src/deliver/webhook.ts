import { setTimeout as delay } from 'node:timers/promises'
import { Worker, type Job } from 'bullmq'
import type { FastifyBaseLogger } from 'fastify'
import { deliverySchedule, type CallbackQueue, type DeliveryData } from '../callback-queue.ts'
import { callbackQueue } from '../catalog.ts'
import type { Client } from '../store/redis/connect.ts'
import type { Store } from '../store/store.ts'
import type { createWebhookSender, WebhookOutcome } from './send-webhook.ts'

const CONCURRENCY = 50
const JITTER = 0.2

/** A try that failed and is to be made again, by BullMQ, after a wait. */
class DeliveryFailed extends Error {
  readonly retryAfterMs: number

  constructor(message: string, retryAfterMs: number) {
    super(message)
    this.retryAfterMs = retryAfterMs
  }
}

export interface WebhookParts {
  readonly store: Store
  readonly callbacks: CallbackQueue
  readonly sender: ReturnType<typeof createWebhookSender>
  /** The worker's own connection, closed with it; it may wait as long as it takes. */
  readonly connection: Client
  readonly prefix: string
  readonly log: FastifyBaseLogger
}

export interface Webhooks {
  /** Begins no more tries, and gives those under way so long. */
  close(graceMs: number): Promise<void>
}

/** Consumes the callback queue: delivers events to return addresses, at least once, those of a job in order. */
export function startWebhooks(parts: WebhookParts): Webhooks {
  const { connection, prefix, log } = parts
  const worker = new Worker<DeliveryData>(callbackQueue, (job) => deliver(parts, job), {
    connection,
    prefix,
    concurrency: CONCURRENCY,
    lockDuration: 10_000,
    stalledInterval: 5_000,
    // A gateway that dies under a delivery is no fault of the delivery's.
    maxStalledCount: 1_000,
    settings: { backoffStrategy: (attemptsMade, _type, error) => waitBefore(attemptsMade, error) },
  })
  worker.on('error', (err) => log.warn({ err }, 'the callback queue cannot be read'))
  return {
    async close(graceMs) {
      // Closing waits for what is under way, for ever if Redis goes away under it; what is given up is tried again.
      const isThere = connection.status === 'ready'
      await Promise.race([isThere && worker.pause(), delay(graceMs, undefined, { ref: false })])
      await worker.close(true)
      connection.disconnect()
    },
  }
}

async function deliver(
  { store, callbacks, sender, log }: WebhookParts,
  job: Job<DeliveryData>,
): Promise<void> {
  const { job_id: id, seq, generation } = job.data
  const delivery = { seq, generation }
  const state = await store.callback(id)
  // Settled by an earlier run of this very job, or void since the return address was changed.
  if (state?.pending?.seq !== seq || state.pending.generation !== generation) return
  const event = (await store.read(id, seq - 1, 1))?.events[0]
  if (event?.seq !== seq) {
    log.warn({ job_id: id, seq }, 'an event was trimmed from the journal before it could be delivered')
    return callbacks.settle(id, delivery)
  }

  const outcome = await sender.send({ url: state.callback.url, id: `${id}.${seq}`, body: event.text })
  const isLast = job.attemptsMade + 1 >= (job.opts.attempts ?? 1)
  if (outcome.status === 'failed' && !isLast) {
    const retryAfterMs = outcome.reason === 'http_status' ? (outcome.retryAfterMs ?? 0) : 0
    throw new DeliveryFailed(outcome.error, retryAfterMs)
  }
  if (outcome.status !== 'delivered') {
    log.warn({ job_id: id, seq, attempts: job.attemptsMade + 1, ...problemOf(outcome) }, 'a delivery is dead')
  }
  await callbacks.settle(id, delivery)
}

function problemOf(outcome: WebhookOutcome): { reason: string; error: string } {
  const error = 'error' in outcome ? outcome.error : ''
  return { reason: 'reason' in outcome ? outcome.reason : outcome.status, error }
}

/** The schedule's wait with jitter, or the receiver's `Retry-After` where that is longer (at most a day). */
function waitBefore(attemptsMade: number, error: Error | undefined): number {
  const scheduled = deliverySchedule[attemptsMade - 1] ?? deliverySchedule.at(-1) ?? 0
  const jittered = scheduled * (1 - JITTER + 2 * JITTER * Math.random())
  const asked = error instanceof DeliveryFailed ? Math.min(error.retryAfterMs, 86_400_000) : 0
  return Math.round(Math.max(jittered, asked))
}
