import { normalizeIP } from '@fastify/rate-limit'
import type { Rate } from '../config-limits.ts'
import { Problem } from '../errors.ts'
import type { Access, Asking } from './access.ts'
import type { Identity } from './identity.ts'
import { createMemory } from './memory.ts'

/** Tries of an address whose outcome is not known yet, and those that are to be made when it is. */
interface Tries {
  underWay: number
  readonly waiting: (() => void)[]
}

/**
 * Bounds how often one address may fail to say who it is, on this node: from then on nothing that it brings is looked at,
 * be it good or bad, until the time that its first failure began is over. No more are under way at a time than may still fail;
 * the others wait for these.
 *
 * @param now milliseconds of any clock that never goes back
 */
export function boundFailures(
  identify: Access['identify'],
  { count: most, perMs }: Rate,
  now = () => performance.now(),
): Access['identify'] {
  const failures = createMemory<{ count: number; readonly endsAt: number }>(now)
  const all = new Map<string, Tries>()

  return (asking) => attempt(asking, normalizeIP(asking.address || ''))

  function attempt(asking: Asking, address: string): ReturnType<Access['identify']> {
    const known = failures.get(address)
    if (known !== null && known.count >= most) {
      throw new Problem('rate_limited', 'There were too many bad credentials from this address', {
        retryAfterS: Math.ceil((known.endsAt - now()) / 1_000),
      })
    }
    const tries = all.get(address) ?? { underWay: 0, waiting: [] }
    if (tries.underWay + (known?.count ?? 0) >= most) return wait(asking, address, tries)
    let found: ReturnType<Access['identify']>
    try {
      found = identify(asking)
    } catch (error) {
      return count(address, error)
    }
    if (!(found instanceof Promise)) return found
    all.set(address, tries)
    tries.underWay++
    return found.catch((error: unknown) => count(address, error)).finally(() => goOn(address, tries))
  }

  async function wait(asking: Asking, address: string, { waiting }: Tries): Promise<Identity> {
    return new Promise((resolve, reject) => {
      waiting.push(() => {
        try {
          resolve(attempt(asking, address))
        } catch (error) {
          reject(error)
        }
      })
    })
  }

  /** Makes as many of the tries that wait as may be made now; if no more may fail, all of them are refused. */
  function goOn(address: string, tries: Tries): void {
    tries.underWay--
    for (;;) {
      const failed = failures.get(address)?.count ?? 0
      if (failed < most && failed + tries.underWay >= most) return
      const next = tries.waiting.shift()
      if (!next) break
      next()
    }
    if (tries.underWay === 0) all.delete(address)
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
