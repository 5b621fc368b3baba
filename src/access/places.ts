import type { FastifyBaseLogger } from 'fastify'
import type { Store } from '../store/store.ts'

/** Nothing that takes a place lasts longer: see StreamLimits and SocketLimits. */
const TTL_MS = 900_000
const RETRY_MS = 1_000

/** Places that one key has on all nodes together. */
export interface Places {
  /**
   * @param name of {@link nameOf}
   * @returns gives the place back; null: there is none left
   * @throws the driver's error when the store is away
   */
  take(name: string): Promise<(() => void) | null>
}

export interface PlacesParts {
  readonly store: Pick<Store, 'limits'>
  /** This process's name in {@link Store.announce}, with which its places go. */
  readonly node: string
  /** What they are for. */
  readonly kind: 'streams' | 'sockets'
  readonly most: number
  readonly closing: AbortSignal
  readonly log: FastifyBaseLogger
}

/** What a key has here. */
interface Taken {
  held: number
  /** What the store has of it; NaN when nobody knows. */
  known: number
  isTelling: boolean
  /** Until the store is told again what it could not be told. */
  retry: NodeJS.Timeout | undefined
  waiting: Waiting[]
}

interface Waiting {
  readonly resolve: (giveBack: (() => void) | null) => void
  readonly reject: (error: unknown) => void
}

/**
 * Shares places out among the nodes. Each tells the store how many it has by now, and not what has changed: whatever is
 * lost on the way is put right by the next word. One word at a time is under way for a key, for all who ask meanwhile. The
 * places of a node that dies are free once it is gone.
 */
export function createPlaces({ store, node, kind, most, closing, log }: PlacesParts): Places {
  const all = new Map<string, Taken>()

  return {
    take: (name) =>
      new Promise((resolve, reject) => {
        const taken = all.get(name) ?? { held: 0, known: 0, isTelling: false, retry: undefined, waiting: [] }
        all.set(name, taken)
        taken.waiting.push({ resolve, reject })
        void tell(name, taken)
      }),
  }

  /** Until the store knows how many there are now, and nobody waits for one. */
  async function tell(name: string, taken: Taken): Promise<void> {
    if (taken.isTelling) return
    taken.isTelling = true
    while (taken.waiting.length > 0 || (taken.known !== taken.held && !closing.aborted)) {
      const asking = taken.waiting
      const { held } = taken
      taken.waiting = []
      try {
        const places = { held, more: asking.length, most, ttlMs: TTL_MS }
        const more = await store.limits.hold(`${kind} ${name}`, node, places)
        clearTimeout(taken.retry)
        taken.known = held + more
        taken.held += more
        for (const [index, { resolve }] of asking.entries()) resolve(index < more ? given(name, taken) : null)
      } catch (error) {
        taken.known = Number.NaN
        for (const { reject } of asking) reject(error)
        if (taken.waiting.length > 0) continue
        log.debug({ err: error, kind }, 'the store could not be told of places; trying again')
        clearTimeout(taken.retry)
        taken.retry = setTimeout(() => void tell(name, taken), RETRY_MS).unref()
        break
      }
    }
    taken.isTelling = false
    // Whoever gave the last one back may have been told of late: by then the key can have places again.
    if (taken.held === 0 && taken.known === 0 && all.get(name) === taken) all.delete(name)
  }

  /** @returns gives one place back, once */
  function given(name: string, taken: Taken): () => void {
    let isGivenBack = false
    return () => {
      if (isGivenBack) return
      isGivenBack = true
      taken.held--
      void tell(name, taken)
    }
  }
}
