import { randomUUID } from 'node:crypto'
import { Queue, QueueEvents, type Job } from 'bullmq'
import type { Redis } from 'ioredis'

/** Told of each event of a job, as JSON text. */
export type Listener = (event: string, text: string) => void

export const types = ['echo', 'ticks', 'held'] as const
export type Type = (typeof types)[number]

export const isTerminal = (event: string) => event === 'job.completed' || event === 'job.failed'

export const defaultJobOptions = {
  attempts: 3,
  backoff: { type: 'exponential', delay: 500 },
  removeOnComplete: { age: 3_600 },
  removeOnFail: { age: 86_400 },
}

/** A queue and its QueueEvents for each type, and who listens to which job: BullMQ as its documentation shows it. */
export async function createQueues(url: string, redis: Redis) {
  const queues = new Map(
    types.map((type) => [type as string, new Queue(type, { connection: redis, defaultJobOptions })]),
  )
  const listeners = new Map<string, Set<Listener>>()
  for (const type of types) {
    const events = new QueueEvents(type, { connection: { url, maxRetriesPerRequest: null } })
    events.on('error', (error) => console.error(error))
    events.on('active', ({ jobId }) => tell(jobId, 'step.started', { status: 'running' }))
    events.on('progress', ({ jobId, data }) => tell(jobId, 'job.progress', { status: 'running', data }))
    events.on('completed', ({ jobId, returnvalue: result }) =>
      tell(jobId, 'job.completed', { status: 'completed', result }),
    )
    events.on('failed', ({ jobId, failedReason: reason }) =>
      tell(jobId, 'job.failed', { status: 'failed', reason }),
    )
    await events.waitUntilReady()
  }

  return {
    newId: randomUUID,

    /** @param id made before, so that whoever wants to hear of the job listens before it is there */
    add: (type: Type, id: string, input: unknown) => queues.get(type)?.add(type, input, { jobId: id }),

    /** The queue is not in the id, so each is asked. */
    async find(id: string): Promise<Job | undefined> {
      for (const queue of queues.values()) {
        const job = (await queue.getJob(id)) as Job | undefined
        if (job) return job
      }
      return undefined
    },

    /** @returns ends it */
    listen(id: string, listener: Listener): () => void {
      const known = listeners.get(id)
      if (known) known.add(listener)
      else listeners.set(id, new Set([listener]))
      return () => {
        const left = listeners.get(id)
        left?.delete(listener)
        if (left?.size === 0) listeners.delete(id)
      }
    },
  }

  /** Written as JSON once, however many listen. */
  function tell(id: string, type: string, more: object): void {
    const told = listeners.get(id)
    if (!told) return
    const text = JSON.stringify({ type, job_id: id, ...more })
    for (const listener of told) listener(type, text)
    if (isTerminal(type)) listeners.delete(id)
  }
}

export type Queues = Awaited<ReturnType<typeof createQueues>>
