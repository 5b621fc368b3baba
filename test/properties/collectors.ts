import type { Scheduler } from 'fast-check'
import { advance, changeOf, draftOf, type Outcome } from '../../src/advance.ts'
import { dataOf } from '../../src/job.ts'
import type { JobEvent } from '../../src/messages.ts'
import type { Fence, Store } from '../../src/store/store.ts'

/** A store whose calls wait until the scheduler lets them go, one at a time: any interleaving of atomic steps. */
export function scheduled(scheduler: Scheduler, store: Store): Store {
  return {
    ...store,
    load: scheduler.scheduleFunction(store.load.bind(store)),
    apply: scheduler.scheduleFunction(store.apply.bind(store)),
    cursor: scheduler.scheduleFunction(store.cursor.bind(store)),
  }
}

/** An outcome that shows in the journal as its number. */
export function output(n: number): Outcome {
  return { kind: 'progress', queue: 'a', data: `{"output":${n}}` }
}

export function outputsOf(events: readonly JobEvent[]): number[] {
  return events
    .filter(({ type }) => type === 'job.progress')
    .map(({ text }) => (JSON.parse(dataOf(text)) as { output: number }).output)
}

export interface Collecting {
  readonly store: Store
  readonly source: string
  readonly ids: readonly string[]
  readonly log: readonly { id: string; outcome: Outcome }[]
  /** How many entries it reads next. */
  readonly sizes: Iterator<number>
  /** Where it believes to be: where it was, at the beginning as if it had slept all the time, or where the store says. */
  readonly beliefs: Iterator<string>
}

/** Brings a source's entries into the journals as a collector does, until it finds them all applied. */
export async function collectAll({ store, source, ids, log, sizes, beliefs }: Collecting): Promise<void> {
  let position: string | null = null
  while (Number(position) < log.length) {
    const belief: string = beliefs.next().value
    const from: string | null =
      belief === 'own' ? position : belief === 'old' ? null : await store.cursor(source)
    const batch = log.slice(Number(from), Number(from) + sizes.next().value)
    const fence: Fence = { source, from, to: `${Number(from) + batch.length}` }
    for (let status = 'conflict'; status === 'conflict';) {
      const drafts = (await store.load(ids)).flatMap((job) => (job ? [draftOf(job)] : []))
      for (const draft of drafts)
        for (const { id, outcome } of batch) if (id === draft.record.id) advance(draft, outcome, 0)
      const applied = await store.apply(fence, drafts.filter(({ touched }) => touched).map(changeOf))
      status = applied.status
      if (applied.status === 'applied') position = fence.to
      if (applied.status === 'fenced') position = applied.cursor
    }
  }
}
