import type { Outcome } from './advance.ts'
import { timeOf, type ResultEntry, type ResultQueue } from './result-queue.ts'

/** An outcome of one job, and when it happened (milliseconds since the epoch, Redis's clock). */
export interface Told {
  readonly id: string
  readonly at: number
  readonly outcome: Outcome
}

/**
 * Why a job failed, from BullMQ's `failedReason`: the worker's own words, but for the ones that BullMQ itself puts there
 * when the workers of a job are lost again and again (BullMQ `moveStalledJobsToWait`).
 */
export function toReason(failedReason: string): string {
  if (failedReason !== 'job stalled more than allowable limit') return failedReason
  return (
    'The worker was lost every time, more often than is allowed: the job may be what kills its workers ' +
    `(${failedReason})`
  )
}

/**
 * Translates entries of a result queue into outcomes. BullMQ's vocabulary ends here.
 *
 * @param isCut whether more entries may follow in the same atomic write as the last one
 * @returns `last`: the id up to which the entries were used, null for none
 */
export async function toOutcomes(
  queue: string,
  results: ResultQueue,
  entries: readonly ResultEntry[],
  isCut: boolean,
): Promise<{ told: Told[]; last: string | null }> {
  // A lost worker's job is told by two entries, `waiting` and then `stalled`: never judge the first without the second.
  const tail = entries.at(-1)
  const used = isCut && tail && isPutBack(tail) ? entries.slice(0, -1) : entries
  const reasons = await reasonsOf(results, used)
  const told = used.flatMap((entry, index) => {
    const outcome = toOutcome(queue, entry, used[index + 1], reasons)
    return outcome ? [{ id: entry.jobId, at: timeOf(entry.id), outcome }] : []
  })
  return { told, last: used.at(-1)?.id ?? null }
}

function toOutcome(
  queue: string,
  { id, event, jobId, fields }: ResultEntry,
  next: ResultEntry | undefined,
  reasons: ReadonlyMap<string, string>,
): Outcome | null {
  switch (event) {
    case 'active':
      return { kind: 'started', queue }
    case 'progress':
      return { kind: 'progress', queue, data: fields['data'] ?? 'null' }
    case 'completed':
      return { kind: 'completed', queue, result: fields['returnvalue'] || 'null' }
    case 'failed':
      return { kind: 'failed', queue, reason: toReason(fields['failedReason'] ?? '') }
    case 'removed':
      return { kind: 'removed', queue }
    case 'stalled':
      return { kind: 'retrying', queue, reason: 'the worker was lost', delayMs: 0 }
    case 'delayed': {
      const reason = reasons.get(jobId) || 'the worker put it off'
      return { kind: 'retrying', queue, reason, delayMs: Number(fields['delay']) - timeOf(id) }
    }
    case 'waiting': {
      if (fields['prev'] !== 'active' || (next?.event === 'stalled' && next.jobId === jobId)) return null
      return { kind: 'retrying', queue, reason: reasons.get(jobId) || 'the worker put it back', delayMs: 0 }
    }
    default:
      return null
  }
}

function isPutBack({ event, fields }: ResultEntry): boolean {
  return event === 'waiting' && fields['prev'] === 'active'
}

/** A retry's entry does not say why the attempt failed; BullMQ's job does. */
async function reasonsOf(
  results: ResultQueue,
  entries: readonly ResultEntry[],
): Promise<Map<string, string>> {
  const retried = entries.filter((entry) => entry.event === 'delayed' || isPutBack(entry))
  return retried.length === 0 ? new Map() : results.failedReasons(retried.map(({ jobId }) => jobId))
}
