import { setTimeout as delay } from 'node:timers/promises'
import { append } from './append.ts'
import type { Deciding } from './follow-up.ts'
import { isTerminal, type JobRecord } from './messages.ts'
import type { Queues } from './queues.ts'

const MAX_TRIES = 10
const TRY_MS = 30
/** How long the journal may take to tell that a worker has taken the job, before the wish to cancel comes first in it. */
const TELL_MS = 10

export interface CancelParts extends Deciding {
  readonly queues: Queues
}

/**
 * Ends a job before its time: at once if it waits in a queue. A plain worker cannot be stopped, so one that has the job
 * goes on with its attempt; the job is `canceling` until that is over, and no further attempt or step begins.
 *
 * The wish is stored first, then the job leaves its queue, then the end is written: whatever is cut off in between, the
 * collector (which hears of the removal) or the watchdog finishes.
 *
 * @param force ends the record even under a worker, whose outcome is then ignored
 * @returns the job afterwards, null if there is no such job
 */
export async function endEarly(
  parts: CancelParts,
  id: string,
  ending: 'canceled' | 'expired',
  { force }: { readonly force: boolean },
): Promise<JobRecord | null> {
  const asked = await append(parts, id, () => ({ kind: 'end_requested', ending }))
  if (!asked || isTerminal(asked.status)) return asked
  const isOut = await removeFromQueue(parts.queues, asked)
  if (isOut || force)
    return append(parts, id, ({ record }) => ({ kind: 'ended', ending: record.ending ?? ending }))
  if (!asked.active) await whenTold(parts, asked)
  return append(parts, id, () => ({ kind: 'canceling' }))
}

/** A worker has just taken it: the journal should say so first. */
async function whenTold({ store }: CancelParts, { id, seq }: JobRecord): Promise<void> {
  for (let tries = 1; tries <= MAX_TRIES; tries++) {
    await delay(TELL_MS)
    const [stored] = await store.load([id])
    if (!stored || stored.record.seq > seq) return
  }
}

async function removeFromQueue(queues: Queues, { id, route, step }: JobRecord): Promise<boolean> {
  const queue = route[step]
  if (queue === undefined) return false
  for (let tries = 1; ; tries++) {
    const { state } = await queues.truth(queue, id)
    if (state === 'waiting' || state === 'delayed' || state === 'prioritized') return queues.remove(queue, id)
    // Between accepting and enqueuing, or between two steps, no queue has it for as long as a write takes.
    if (state !== 'unknown' || tries === MAX_TRIES) return false
    await delay(TRY_MS)
  }
}
