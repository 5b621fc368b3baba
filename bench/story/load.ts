import { setTimeout as delay } from 'node:timers/promises'
import { getJson } from './post.ts'

/** A call every so often for some time, whatever becomes of those before. @returns what became of all of them */
export async function atPace<T>(everyMs: number, forMs: number, call: () => Promise<T>): Promise<T[]> {
  const calls: Promise<T>[] = []
  const since = performance.now()
  while (calls.length * everyMs < forMs) {
    await delay(since + calls.length * everyMs - performance.now())
    calls.push(call())
  }
  return Promise.all(calls)
}

/** So many calls at once. */
export function atOnce<T>(count: number, call: () => Promise<T>): Promise<T[]> {
  return Promise.all(Array.from({ length: count }, call))
}

/** Has so many connections open, as clients have that have been there before. */
export async function connectMany(count: number, url: string): Promise<void> {
  await atOnce(count, () => getJson(url))
}

/** Says what is being done: it all takes two minutes. */
export function say(what: string): void {
  console.error(`${(performance.now() / 1_000).toFixed(0).padStart(3)} s  ${what}`)
}

/** The value that so large a share is not above; NaN of none. */
export function quantile(values: readonly number[], share: number): number {
  const sorted = values.toSorted((one, other) => one - other)
  return sorted[Math.max(0, Math.ceil(sorted.length * share) - 1)] ?? NaN
}
