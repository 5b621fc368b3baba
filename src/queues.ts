import { Job, Queue, type JobsOptions } from 'bullmq'
import type { Catalog } from './catalog.ts'
import type { JobRecord } from './messages.ts'
import type { Client } from './store/redis/connect.ts'
import type { Replicate } from './store/redis/replicate.ts'

/** How long BullMQ keeps its own copy of a finished job: the truth that the watchdog compares with. */
const KEEP = { removeOnComplete: { age: 3_600 }, removeOnFail: { age: 86_400 } } satisfies JobsOptions
/** The result queue is trimmed behind the cursor; this only bounds it while nobody collects. */
const MAX_RESULT_QUEUE_LENGTH = 1_000_000

export type QueueState =
  | 'waiting'
  | 'delayed'
  | 'prioritized'
  | 'active'
  | 'waiting-children'
  | 'completed'
  | 'failed'
  | 'unknown'

/** What BullMQ holds of a job at a step. */
export interface QueueTruth {
  readonly state: QueueState
  /** JSON text, once completed. */
  readonly result: string | null
  readonly failedReason: string | null
}

/** The BullMQ queues of the steps: what is put in, and what BullMQ says of it. */
export interface Queues {
  /** Hands the input (JSON text) to the queue of the step that the job is at. Repeating it is harmless. */
  enqueue(record: JobRecord, input: string): Promise<void>
  /** Takes a job out of a queue. False when a worker has it, or had it by then. */
  remove(queue: string, id: string): Promise<boolean>
  truth(queue: string, id: string): Promise<QueueTruth>
  close(): Promise<void>
}

/** JSON text as BullMQ data. BullMQ would serialise a value; this one is serialised already. */
class JsonText {
  readonly text: string

  constructor(text: string) {
    this.text = text
  }

  toJSON(): null {
    return null
  }
}

/** A BullMQ job whose data goes in as the JSON text that it is (invariant 9). */
class TextJob extends Job {
  override asJSON(): ReturnType<Job['asJSON']> {
    return { ...super.asJSON(), data: (this.data as JsonText).text }
  }
}

class TextQueue extends Queue {
  // BullMQ creates jobs through this getter, "helper to easily extend Job class calls".
  override get Job(): typeof Job {
    return TextJob as typeof Job
  }
}

/**
 * @param redis the connection that the store uses too: Redis then sees a record before its BullMQ job
 * @param prefix BullMQ's key prefix, `bull` unless the workers say otherwise
 * @param now the store's clock: what a delay counts from
 * @param replicate waited for before a job counts as enqueued
 */
export function createQueues(
  redis: Client,
  prefix: string,
  catalog: Catalog,
  now: () => number,
  replicate: Replicate = async () => undefined,
): Queues {
  const queues = new Map<string, TextQueue>()

  return {
    async enqueue(record, input) {
      // BullMQ would wait for the connection; whoever enqueues wants to know.
      if (redis.status !== 'ready') throw new Error('Connection not ready')
      const name = record.route[record.step]
      if (name === undefined) throw new Error(`Expected job ${record.id} to be at a step of its route`)
      const queue = queueOf(name)
      await queue.add(record.type, new JsonText(input), optionsFor(record, name))
      await replicate(queue.toKey(record.id))
    },

    async remove(name, id) {
      return (await queueOf(name).remove(id)) === 1
    },

    async truth(name, id) {
      const queue = queueOf(name)
      const [state, fields] = await Promise.all([
        queue.getJobState(id),
        redis.hmget(queue.toKey(id), 'returnvalue', 'failedReason'),
      ])
      return { state, result: fields[0] || null, failedReason: fields[1] ?? null }
    },

    async close() {
      await Promise.all([...queues.values()].map((queue) => queue.close()))
    },
  }

  function queueOf(name: string): TextQueue {
    const known = queues.get(name)
    if (known) return known
    const queue = new TextQueue(name, {
      connection: redis,
      prefix,
      // Its answer is kept for good, also when it is a failure because Redis hung just then.
      skipVersionCheck: true,
      streams: { events: { maxLen: MAX_RESULT_QUEUE_LENGTH } },
    })
    // The connection is ours and reports its own errors; without a listener the event would throw.
    queue.on('error', () => undefined)
    queues.set(name, queue)
    return queue
  }

  function optionsFor(record: JobRecord, name: string): JobsOptions {
    const step = catalog.types.get(record.type)?.steps.find(({ queue }) => queue === name)
    const delay = record.step === 0 ? Math.max(0, record.notBefore - now()) : 0
    return {
      ...KEEP,
      jobId: record.id,
      timestamp: now(),
      ...(step && { attempts: step.attempts, backoff: { type: 'exponential', delay: step.backoffMs } }),
      ...(record.priority > 0 && { priority: record.priority }),
      ...(delay > 0 && { delay }),
    }
  }
}
