import type { Follow } from '../../src/follow.ts'
import type { JobEvent } from '../../src/messages.ts'

/** A client that keeps what it is sent, and is full after every few writes until the next turn. */
export interface Recorder {
  readonly id: string
  readonly after: number
  readonly events: readonly JobEvent[]
  readonly ended: Promise<void>
  stop(): void
}

export function record(follow: Follow, id: string, after: number, room = Infinity): Recorder {
  const events: JobEvent[] = []
  let writes = 0
  let end = (): void => undefined
  const ended = new Promise<void>((resolve) => (end = resolve))
  const subscription = follow(id, after, {
    write(batch) {
      events.push(...batch)
      if (++writes % room !== 0) return true
      setImmediate(() => subscription.resume())
      return false
    },
    end,
  })
  return { id, after, events, ended, stop: () => subscription.stop() }
}

/**
 * What is wrong with what a client was sent, null if nothing is: every event after its cursor once, in order, as the
 * journal has it; a snapshot stands for events that were trimmed before it got to them (invariants 3 and 4).
 */
export function faultOf(
  { after, events }: Recorder,
  journal: readonly string[],
  limit: number,
): string | null {
  let seq = after
  for (const { type, seq: next, text } of events) {
    if (type === 'job.snapshot') {
      if (next <= seq || next > journal.length - limit) return `a snapshot of ${next} after ${seq}`
    } else {
      if (next !== seq + 1) return `${next} after ${seq}`
      if (text !== journal[next - 1]) return `other bytes: ${text} for ${journal[next - 1]}`
    }
    seq = next
  }
  return seq === journal.length ? null : `the end is at ${seq}, the journal's at ${journal.length}`
}
