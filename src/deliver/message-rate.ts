import type { Rate } from '../config-limits.ts'

/** Whether one more may come: a bucket of `count` tokens, which is filled evenly in `perMs`. */
export type MessageRate = () => boolean

/** @param now milliseconds of any clock that never goes back */
export function createMessageRate({ count, perMs }: Rate, now = () => performance.now()): MessageRate {
  let tokens = count
  let at = now()
  return () => {
    const since = now() - at
    at += since
    tokens = Math.min(count, tokens + (since * count) / perMs)
    if (tokens < 1) return false
    tokens--
    return true
  }
}
