import { setTimeout as delay } from 'node:timers/promises'
import type { FastifyBaseLogger } from 'fastify'
import type { Backlog, Store } from './store/store.ts'

const SAMPLE_MS = 1_000
/** The pace at which jobs start is that of the last so many samples. */
const WINDOW = 10
/** What a client is told while nothing starts at all, and at most. Seconds. */
const IDLE_S = 30
const LONGEST_S = 300

/** How many jobs of each type wait, and how fast they start: whether there is room, and when there will be. */
export interface Backlogs {
  /**
   * When a client that has been refused may come again, in seconds: each is given the moment at which there is room for it.
   *
   * @param of whose own bound it met, and how many jobs of the type wait for that tenant; without it the type's bound
   */
  retryAfterS(type: string, of?: { readonly tenant: string; readonly waiting: number }): number
  /** The last count of each type, on all nodes together. */
  waiting(): ReadonlyMap<string, number>
  /** Counts until the signal ends it. */
  watch(signal: AbortSignal): Promise<void>
}

interface Known {
  readonly samples: (Backlog & { readonly at: number })[]
  /** When the last client that was refused here may come again, milliseconds since the epoch; by tenant, '' for all. */
  readonly nextRoomAt: Map<string, number>
}

/**
 * @param nodes how many nodes take jobs in: each gives out its share of the room that comes
 * @param now milliseconds since the epoch
 */
export function createBacklogs(
  parts: {
    readonly store: Pick<Store, 'backlog'>
    readonly types: readonly string[]
    readonly log: FastifyBaseLogger
  },
  nodes: () => number,
  now: () => number = Date.now,
): Backlogs {
  const { store, types, log } = parts
  const known = new Map<string, Known>(types.map((type) => [type, { samples: [], nextRoomAt: new Map() }]))

  return {
    retryAfterS(type, of) {
      const each = known.get(type)
      const all = each?.samples.at(-1)?.waiting ?? 0
      const waiting = of ? Math.min(of.waiting, all) : all
      // Of what starts a tenant has the share that it has of what waits.
      const share = all > 0 ? waiting / all : 1
      const perMs = each ? (share * paceOf(each)) / nodes() : 0
      if (!each || perMs === 0) return IDLE_S
      // All that wait now have started by then, whoever else was told to come again.
      const drainedAt = now() + waiting / perMs
      const key = of?.tenant ?? ''
      const at = Math.min(Math.max(each.nextRoomAt.get(key) ?? 0, now()) + 1 / perMs, drainedAt)
      each.nextRoomAt.set(key, at)
      return Math.min(Math.max(Math.ceil((at - now()) / 1_000), 1), LONGEST_S)
    },

    waiting: () => new Map([...known].map(([type, { samples }]) => [type, samples.at(-1)?.waiting ?? 0])),

    async watch(signal) {
      while (!signal.aborted) {
        await sample()
        await delay(SAMPLE_MS, undefined, { signal }).catch(() => undefined)
      }
    },
  }

  async function sample(): Promise<void> {
    try {
      const counts = await store.backlog(types)
      const at = now()
      for (const [index, type] of types.entries()) {
        const [each, count] = [known.get(type), counts[index]]
        if (!each || !count) continue
        each.samples.push({ ...count, at })
        if (each.samples.length > WINDOW) each.samples.shift()
        for (const [key, at] of each.nextRoomAt) if (at < now()) each.nextRoomAt.delete(key)
      }
    } catch (err) {
      log.debug({ err }, 'the backlog could not be counted')
    }
  }
}

/** Jobs that started per millisecond. */
function paceOf({ samples }: Known): number {
  const [first, last] = [samples[0], samples.at(-1)]
  if (!first || !last || last.at === first.at) return 0
  return (last.started - first.started) / (last.at - first.at)
}
