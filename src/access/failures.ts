import { normalizeIP } from '@fastify/rate-limit'
import type { Rate } from '../config-limits.ts'
import { Problem } from '../errors.ts'
import type { Access } from './access.ts'
import { createMemory } from './memory.ts'

/**
 * Bounds how often one address may fail to say who it is, on this node: from then on nothing that it brings is looked at,
 * be it good or bad, until the time that its first failure began is over.
 *
 * @param now milliseconds of any clock that never goes back
 */
export function boundFailures(
  identify: Access['identify'],
  { count: most, perMs }: Rate,
  now = () => performance.now(),
): Access['identify'] {
  const failures = createMemory<{ count: number; readonly endsAt: number }>(now)

  return (asking) => {
    const address = normalizeIP(asking.address)
    const known = failures.get(address)
    if (known !== null && known.count >= most) {
      throw new Problem('rate_limited', 'There were too many bad credentials from this address', {
        retryAfterS: Math.ceil((known.endsAt - now()) / 1_000),
      })
    }
    try {
      const found = identify(asking)
      return found instanceof Promise ? found.catch((error: unknown) => count(address, error)) : found
    } catch (error) {
      return count(address, error)
    }
  }

  function count(address: string, error: unknown): never {
    if (error instanceof Problem && error.code === 'unauthorized') {
      const known = failures.get(address)
      if (known) known.count++
      else failures.set(address, { count: 1, endsAt: now() + perMs }, perMs)
    }
    throw error
  }
}
