import { isTerminal, type JobRecord } from '../../messages.ts'

/** How long an unfinished job is left alone after an event before the watchdog looks at it. */
const WATCH_MS = 30_000

/** An ended job is due when its retention is over, one in its queue some time after its last event or its deadline. */
export function dueOf(record: JobRecord): number {
  if (isTerminal(record.status)) return record.expiresAt ?? record.updatedAt
  return Math.min(Math.max(record.updatedAt, record.notBefore) + WATCH_MS, record.deadlineAt)
}
