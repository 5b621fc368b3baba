import { callbackify } from 'node:util'
import rateLimit, { normalizeIP, type FastifyRateLimitStore } from '@fastify/rate-limit'
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import type { Rate } from '../config-limits.ts'
import { Problem } from '../errors.ts'
import type { Count } from '../store/limits.ts'
import type { Store } from '../store/store.ts'
import { anonymous, type Identity } from './identity.ts'
import { createMemory } from './memory.ts'

/** For the options of a route that is not counted: whoever watches the gateway must be able to. */
export const uncounted = { rateLimit: false } as const

/** Whom limits count by: whoever issued the credentials; where nobody has any, his address (of IPv6 its /64). */
export function nameOf({ id, tenant }: Identity, address: string): string {
  return id === anonymous.id ? `address ${normalizeIP(address || '')}` : `${tenant} ${id}`
}

/** What limits requests beyond the one that each HTTP request is. */
export interface Requests {
  /** Counts the items of a batch, of which the request itself is one. @returns null if none is too many */
  countItems(request: FastifyRequest, reply: FastifyReply, items: number): Promise<TooMany | null>
  /** Counts a message of a WebSocket that asks for what a request would. @throws Problem `rate_limited` */
  countMessage(identity: Identity, address: string): Promise<void>
}

/** How many of the last items, and what they are answered with. */
export interface TooMany {
  readonly items: number
  readonly problem: Problem
}

export interface LimitRequestsParts {
  readonly limit: Rate
  readonly store: Pick<Store, 'limits'>
}

/**
 * Counts every request of somebody who was let in, and refuses those of whom there were too many, before any of the body is
 * read. One command to Redis each; whoever is known to have none left costs nothing until the window is over.
 */
export async function limitRequests(
  app: FastifyInstance,
  { limit: { count: most, perMs }, store }: LimitRequestsParts,
): Promise<Requests> {
  const windows = createMemory<number>()
  const windowS = perMs / 1_000

  const countOne = callbackify(async (name: string) => {
    const { count: current, leftMs: ttl } = await count(name, 1)
    return { current, ttl }
  })
  // The plugin makes its store itself.
  class Counts implements FastifyRateLimitStore {
    incr(name: string, callback: Parameters<FastifyRateLimitStore['incr']>[1]): void {
      countOne(name, callback)
    }
    child(): FastifyRateLimitStore {
      return this
    }
  }
  await app.register(rateLimit, {
    global: false,
    max: most,
    timeWindow: perMs,
    store: Counts,
    keyGenerator: ({ identity, ip }) => nameOf(identity, ip),
  })
  const check = app.createRateLimit()

  app.addHook('onRequest', async (request, reply) => {
    if (request.identity === null || request.routeOptions.config.rateLimit === false) return
    const checked = await check(request)
    if (checked.isAllowed) return
    tell(reply, checked.remaining, checked.ttlInSeconds)
    if (checked.isExceeded) throw refuse(checked.ttlInSeconds)
  })

  return {
    async countItems(request, reply, items) {
      if (items === 1) return null
      const { count: counted, leftMs } = await count(nameOf(request.identity, request.ip), items - 1)
      tell(reply, Math.max(0, most - counted), secondsOf(leftMs))
      return counted <= most
        ? null
        : { items: Math.min(items - 1, counted - most), problem: refuse(secondsOf(leftMs)) }
    },
    async countMessage(identity, address) {
      const { count: counted, leftMs } = await count(nameOf(identity, address), 1)
      if (counted > most) throw refuse(secondsOf(leftMs))
    },
  }

  async function count(name: string, cost: number): Promise<Count> {
    const endsAt = windows.get(name)
    if (endsAt !== null) return { count: most + cost, leftMs: Math.max(endsAt - performance.now(), 1) }
    const counted = await store.limits.count(`requests ${name}`, cost, perMs)
    if (counted.count >= most) windows.set(name, performance.now() + counted.leftMs, counted.leftMs)
    return counted
  }

  /** draft-ietf-httpapi-ratelimit-headers-10: structured fields, which a stream has too. */
  function tell(reply: FastifyReply, remaining: number, leftS: number): void {
    reply.header('ratelimit-policy', `"default";q=${most};w=${windowS}`)
    reply.header('ratelimit', `"default";r=${remaining};t=${leftS}`)
  }

  function refuse(retryAfterS: number): Problem {
    return new Problem('rate_limited', `Expected at most ${most} requests in ${windowS} s`, { retryAfterS })
  }
}

function secondsOf(ms: number): number {
  return Math.ceil(ms / 1_000)
}
