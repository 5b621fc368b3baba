import type { Test } from 'tap'
import { count, figures, type Event, type Load } from './load.ts'

/** Whether the whole suite runs, or the shortened form that CI runs. */
export const isWhole = process.env['FAULTS'] === 'whole'

/** The larger number for the whole suite, the smaller one for the shortened form. */
export const times = (whole: number, short: number): number => (isWhole ? whole : short)

/**
 * Stops the load, counts what became of every promise, prints the line of figures, and fails the test for anything
 * that is missing, unfinished or broken (invariants 1 and 2).
 */
export async function settle(
  t: Test,
  name: string,
  load: Load,
  {
    url,
    withinMs = 90_000,
    recoveriesMs = [],
    inspect,
  }: {
    url: string
    withinMs?: number
    recoveriesMs?: readonly number[]
    /** Is shown every journal before the figures are made; it may still add to `recoveriesMs`. */
    inspect?: (events: readonly Event[]) => void
  },
): Promise<void> {
  await load.stop()
  const counted = await count(url, load.accepted, withinMs, inspect)
  t.comment(figures(name, load, counted, recoveriesMs))
  t.ok(load.accepted.length > 0, 'there was load')
  t.same(counted.missing, [], 'no job is missing')
  t.same(counted.unfinished, [], 'every job has ended')
  t.same(counted.broken, [], 'every journal is 1..n with one terminal event, the last')
}
