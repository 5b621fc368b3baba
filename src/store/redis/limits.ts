import type { Limits } from '../limits.ts'
import type { Client } from './connect.ts'
import type { Keys } from './keys.ts'
import { defineScript } from './scripts.ts'

/** Counts for all nodes: a number per name that expires, and a hash of nodes per name. */
export function createLimits(redis: Client, keys: Keys): Limits {
  const count = defineScript<[number, number]>(redis, 'count')
  const hold = defineScript<number>(redis, 'hold')

  return {
    async count(name, cost, windowMs) {
      const [counted, leftMs] = await count([keys.count(name)], [cost, windowMs])
      return { count: counted, leftMs: Math.max(leftMs, 1) }
    },

    hold(name, node, { held, more, most, ttlMs }) {
      return hold([keys.places(name), keys.nodes], [node, held, more, most, ttlMs])
    },
  }
}
