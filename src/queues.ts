import { Job, Queue, type JobsOptions } from 'bullmq'
import { fairQueues, type Catalog } from './catalog.ts'
import type { JobRecord } from './messages.ts'
import { RETRY_AFTER } from './steps.ts'
import type { Client } from './store/redis/connect.ts'
import { bullmqScript, inOrder, inTurns, putOff, type Addition } from './store/redis/bullmq.ts'
import type { Replicate } from './store/redis/replicate.ts'
import { defineScript } from './store/redis/scripts.ts'

/** How long BullMQ keeps its own copy of a finished job: the truth that the watchdog compares with. */
const KEEP = { removeOnComplete: { age: 3_600 }, removeOnFail: { age: 86_400 } } satisfies JobsOptions
/**
 * BullMQ's rule for jobs whose worker was lost, for when we apply it. How often the workers of a queue may be lost is
 * known to them alone, so it is BullMQ's default that counts: what a worker that says nothing allows. More would leave
 * a job that kills such workers waiting for ever; less would fail one that they would have tried again.
 */
const STALLED_CHECK = { maxStalledCount: 1, stalledInterval: 200 }
/** The result queue is trimmed behind the cursor; this only bounds it while nobody collects. */
const MAX_RESULT_QUEUE_LENGTH = 1_000_000

/**
 * The BullMQ priority of jobs that wait for a time, until they are given their turn (in-turns.lua): behind all that have one,
 * which are below 2^53 + 2^32.
 */
const NO_TURN = 1e16
/** It was BullMQ's own last once: those that were put off then have it. */
const NO_TURNS = [NO_TURN, 2_097_151]

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
  /** Whether a worker holds the job's lock, which it renews as long as it lives. */
  readonly isLocked: boolean
  /** Why the next worker is to fail the job instead of trying it again; null if it is not. */
  readonly deferredFailure: string | null
}

/** The BullMQ queues of the steps: what is put in, and what BullMQ says of it. */
export interface Queues {
  /** Hands the input (JSON text) to the queue of the step that the job is at. Repeating it is harmless. */
  enqueue(record: JobRecord, input: string): Promise<void>
  /**
   * How BullMQ would add it, if it has nothing to wait for; with a priority only where tenants take turns. Null where not.
   */
  additionOf(record: JobRecord): Addition | null
  /** Whether tenants take turns in a queue. */
  isInTurns(queue: string): boolean
  /**
   * Gives a job that has waited for its delay the turn of one that comes now, or where tenants do not take turns any more the
   * client's priority. Repeating it changes nothing.
   */
  takeTurn(record: JobRecord): Promise<void>
  /** Takes a job out of a queue. False when a worker has it, or had it by then. */
  remove(queue: string, id: string): Promise<boolean>
  truth(queue: string, id: string): Promise<QueueTruth>
  /** Whether there are workers: they take what waits, and notice when one of them is lost. */
  hasWorkers(queue: string): Promise<boolean>
  /**
   * BullMQ's own check for jobs whose worker was lost, which only workers run: for when there are none. A job is put
   * back by the second call that finds it so, at the earliest after 0.2 s.
   */
  recoverStalled(queue: string): Promise<void>
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

const turnKeysOf = (queue: Queue) => inTurns.keys.map((key) => queue.toKey(key))

export interface QueuesOptions {
  readonly replicate?: Replicate
  readonly isFair?: boolean
}

/**
 * @param redis the connection that the store uses too: Redis then sees a record before its BullMQ job
 * @param prefix BullMQ's key prefix, `bull` unless the workers say otherwise
 * @param now the store's clock: what a delay counts from
 * @param options.replicate waited for before a job counts as enqueued
 * @param options.isFair whether tenants take turns in the queues of types that do not say
 */
export function createQueues(
  redis: Client,
  prefix: string,
  catalog: Catalog,
  now: () => number,
  { replicate = async () => undefined, isFair = false }: QueuesOptions = {},
): Queues {
  const queues = new Map<string, TextQueue>()
  const additions = new Map<string, Addition>()
  const fair = fairQueues(catalog, isFair)
  const scripts = [inTurns.script, 'changePriority-7'].map(bullmqScript).join('\n')
  const add = defineScript<null>(redis, 'enqueue', [inTurns.front], scripts)
  const retake = defineScript<null>(redis, 'take-turn', [inTurns.front], scripts)
  const addWithoutTurn = defineScript<null>(redis, 'put-off', [], bullmqScript(putOff.script))

  return {
    async enqueue(record, input) {
      // BullMQ would wait for the connection; whoever enqueues wants to know.
      if (redis.status !== 'ready') throw new Error('Connection not ready')
      const name = record.route[record.step]
      if (name === undefined) throw new Error(`Expected job ${record.id} to be at a step of its route`)
      const queue = queueOf(name)
      const options = optionsFor(record, name)
      if (fair.has(name)) await addFairly(queue, record, input, options)
      else await queue.add(record.type, new JsonText(input), options)
      await replicate(queue.toKey(record.id))
    },

    additionOf(record) {
      const name = record.route[0] ?? ''
      const isInTurns = fair.has(name)
      if (record.notBefore > record.createdAt || (record.priority > 0 && !isInTurns)) return null
      const known = additions.get(record.type)
      if (known) return known
      const queue = queueOf(name)
      // The options as BullMQ's job has them.
      const { jobId: _, timestamp: __, ...options } = optionsFor(record, name)
      const { opts } = new TextJob(queue, record.type, null, options)
      const addition = {
        isInTurns,
        keys: isInTurns ? turnKeysOf(queue) : inOrder.keys.map((key) => queue.toKey(key)),
        prefix: queue.toKey(''),
        name: record.type,
        options: JSON.stringify(opts),
      }
      additions.set(record.type, addition)
      return addition
    },

    isInTurns: (name) => fair.has(name),

    async takeTurn({ id, tenant, priority, route, step }) {
      const name = route[step] ?? ''
      const queue = queueOf(name)
      if (fair.has(name)) {
        await retake(turnKeysOf(queue), [queue.toKey(''), tenant, priority, id, ...NO_TURNS])
        return
      }
      const known = Number(await redis.hget(queue.toKey(id), 'priority'))
      if (!NO_TURNS.includes(known) || known === priority) return
      await (await queue.getJob(id))?.changePriority({ priority })
    },

    async remove(name, id) {
      return (await queueOf(name).remove(id)) === 1
    },

    async truth(name, id) {
      const queue = queueOf(name)
      const [state, [result, failedReason, deferredFailure], locks] = await Promise.all([
        queue.getJobState(id),
        redis.hmget(queue.toKey(id), 'returnvalue', 'failedReason', 'defa'),
        redis.exists(`${queue.toKey(id)}:lock`),
      ])
      return {
        state,
        result: result || null,
        failedReason: failedReason ?? null,
        isLocked: locks === 1,
        deferredFailure: deferredFailure || null,
      }
    },

    async hasWorkers(name) {
      const queue = queueOf(name)
      // Their connections have names, where the client and the server can give them; and each check of theirs for lost
      // workers leaves this key until the next is due.
      const [checks, workers] = await Promise.all([
        redis.exists(queue.toKey('stalled-check')),
        queue.getWorkersCount(),
      ])
      return checks === 1 || workers > 0
    },

    async recoverStalled(name) {
      await queueOf(name).getBackend().moveStalledJobsToWait()
    },

    async close() {
      await Promise.all([...queues.values()].map((queue) => queue.close()))
    },
  }

  async function addFairly(
    queue: TextQueue,
    { id, type, tenant, priority }: JobRecord,
    input: string,
    options: JobsOptions,
  ): Promise<void> {
    const { opts } = new TextJob(queue, type, null, options, id)
    const prefix = queue.toKey('')
    const head = JSON.stringify(opts).slice(0, -1)
    const { timestamp = now(), delay } = opts
    if (delay === undefined || delay === 0) {
      await add(turnKeysOf(queue), [prefix, tenant, priority, id, type, timestamp, input, head])
    } else {
      const keys = putOff.keys.map((key) => queue.toKey(key))
      await addWithoutTurn(keys, [prefix, id, type, timestamp, input, delay, head, NO_TURN])
    }
  }

  function queueOf(name: string): TextQueue {
    const known = queues.get(name)
    if (known) return known
    const options = {
      ...STALLED_CHECK,
      connection: redis,
      prefix,
      // Its answer is kept for good, also when it is a failure because Redis hung just then.
      skipVersionCheck: true,
      streams: { events: { maxLen: MAX_RESULT_QUEUE_LENGTH } },
    }
    const queue = new TextQueue(name, options)
    // The connection is ours and reports its own errors; without a listener the event would throw.
    queue.on('error', () => undefined)
    queues.set(name, queue)
    return queue
  }

  function optionsFor(record: JobRecord, name: string): JobsOptions {
    const step = catalog.types.get(record.type)?.steps.find(({ queue }) => queue === name)
    const delay = record.step === 0 ? Math.max(0, record.notBefore - now()) : 0
    const priority = fair.has(name) ? 0 : record.priority
    return {
      ...KEEP,
      jobId: record.id,
      timestamp: now(),
      ...(step && {
        attempts: step.attempts,
        backoff: { type: step.service ? RETRY_AFTER : 'exponential', delay: step.backoffMs },
      }),
      ...(priority > 0 && { priority }),
      ...(delay > 0 && { delay }),
    }
  }
}
