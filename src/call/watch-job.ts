import { UnrecoverableError } from 'bullmq'
import type { FastifyBaseLogger } from 'fastify'
import { isTerminal } from '../messages.ts'
import type { Followed, Store } from '../store/store.ts'

const RETRY_MS = 1_000

export interface WatchParts {
  readonly store: Pick<Store, 'follow' | 'load'>
  readonly log: FastifyBaseLogger
}

/**
 * Follows a job while a call is made for it, and aborts with an UnrecoverableError once nobody wants the result any more:
 * somebody has asked to cancel it, or it has ended, as it does at its deadline.
 *
 * @returns stops following
 */
export async function watchJob(
  { store, log }: WatchParts,
  id: string,
  over: AbortController,
): Promise<() => void> {
  let followed: Followed | null = null
  let timer: NodeJS.Timeout | undefined
  let isStopped = false
  await look()
  return () => {
    isStopped = true
    clearTimeout(timer)
    followed?.unfollow()
  }

  /** The channel first: whatever is applied after the reading will be heard. */
  async function look(): Promise<void> {
    try {
      followed ??= await store.follow(id, {
        events(events) {
          if (events.some(({ type, terminal }) => terminal || type === 'job.canceling')) giveUp()
        },
        interrupted: () => void look(),
      })
      if (isStopped) return followed.unfollow()
      const [job] = await store.load([id])
      if (job && (isTerminal(job.record.status) || job.record.status === 'canceling')) giveUp()
    } catch (err) {
      log.debug({ err, job_id: id }, 'a job cannot be watched; trying again')
      if (!isStopped) timer = setTimeout(() => void look(), RETRY_MS)
    }
  }

  function giveUp(): void {
    over.abort(new UnrecoverableError('The job was canceled, or has ended'))
  }
}
