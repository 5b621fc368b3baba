import type { FastifyBaseLogger } from 'fastify'
import type { Draft } from './advance.ts'
import type { Queues } from './queues.ts'
import type { Store } from './store/store.ts'

/** Hands a job's next event to its return address, if one is due. */
export type HandOver = (id: string) => Promise<void>

/** Does what changes that are in the store by now have left to do. */
export type FollowUps = (
  drafts: readonly Draft[],
  callbacks: readonly string[],
  /** Of the jobs that have something for their return address; without it that of their drafts. */
  tenant?: string,
) => Promise<void>

/**
 * The writes that come after a change: the next step's queue, the callback queue, a retry that must not begin.
 * A failure here is only logged: the store knows what is due, and the watchdog does it again (invariant 1).
 */
export function createFollowUps({
  queues,
  handOver,
  log,
}: {
  readonly queues: Queues
  readonly handOver: HandOver
  readonly log: FastifyBaseLogger
}): FollowUps {
  return async (drafts, callbacks, tenant) => {
    const tasks = callbacks.map((id) => attempt(id, () => handOver(id)))
    for (const { record, input, followUp } of drafts) {
      const { removeFrom } = followUp
      if (followUp.enqueue) tasks.push(attempt(record.id, () => queues.enqueue(record, input ?? 'null')))
      if (removeFrom !== null) tasks.push(attempt(record.id, () => queues.remove(removeFrom, record.id)))
    }
    await Promise.all(tasks)

    async function attempt(id: string, task: () => Promise<unknown>): Promise<void> {
      try {
        await task()
      } catch (err) {
        const draft = drafts.find(({ record }) => record.id === id)
        log.warn({ err, job_id: id, tenant: tenant ?? draft?.record.tenant }, 'left to the watchdog')
      }
    }
  }
}

/** The parts that decide about jobs need the store and the follow-ups of what they decide. */
export interface Deciding {
  readonly store: Store
  readonly followUps: FollowUps
}
