import { advance, changeOf, draftOf, type Outcome } from './advance.ts'
import type { Deciding } from './follow-up.ts'
import type { JobRecord } from './messages.ts'
import type { Stored } from './store/store.ts'

/**
 * Applies what the gateway itself decides about a job: a cancellation, an expiry, a repair.
 * `decide` looks at the job as it is; if the job moves on in between, it is asked again.
 *
 * @param at milliseconds since the epoch
 * @returns the job afterwards, null if there is no such job
 */
export async function append(
  { store, followUps }: Deciding,
  id: string,
  decide: (job: Stored) => Outcome | null,
  at = store.now(),
): Promise<JobRecord | null> {
  for (;;) {
    const [stored] = await store.load([id])
    if (!stored) return null
    const outcome = decide(stored)
    if (!outcome) return stored.record
    const draft = draftOf(stored)
    advance(draft, outcome, at)
    if (!draft.touched) return stored.record
    const applied = await store.apply(null, [changeOf(draft)])
    if (applied.status !== 'applied') continue
    await followUps([draft], applied.callbacks)
    return draft.record
  }
}
