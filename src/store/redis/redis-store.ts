import { randomBytes } from 'node:crypto'
import { toEvent } from '../../messages.ts'
import type { Accepted, Applied, Backlog, Change, Nodes, Store, Stored } from '../store.ts'
import type { Client, Connect } from './connect.ts'
import { createApiKeys } from './api-keys.ts'
import { checkRedis } from './check.ts'
import { createClock } from './clock.ts'
import { packEvent, packRecord, unpackEvent, unpackRecord } from './compact.ts'
import { createDeliveries, type DeliveriesParts } from './deliveries.ts'
import { dueOf } from './due.ts'
import { createFollow } from './follow.ts'
import { createIntake, type Intake } from './intake.ts'
import { createKeys, filterOf, originOf } from './keys.ts'
import { createLimits } from './limits.ts'
import { createViews } from './views.ts'
import { defineScript } from './scripts.ts'

/** Bytes of journal text that one read brings, about. */
const PAGE_BYTES = 262_144
/** When the watchdog checks that the events of an ended job, or for a new return address, were handed over. */
const CALLBACK_CHECK_MS = 10_000
/** Keys of a finished job go by the watchdog; this is how much later Redis drops them if there is no watchdog. */
const EXPIRY_SLACK_MS = 3 * 86_400_000
const CIRCUIT_WAITS_MS = [30_000, 60_000, 120_000, 300_000, 600_000]

export type RedisStoreOptions = Partial<
  Pick<DeliveriesParts, 'replicate' | 'perOrigin' | 'patienceMs' | 'circuitWaitsMs'>
>

/** The store, and what it can do beyond the port where the queues are in the same Redis. */
export interface RedisStore extends Store {
  readonly intake: Intake
}

/**
 * The store in Redis: a hash and a list per job, a sorted set of due times, one per tenant for listing, a hash of
 * cursors, a string per idempotency key, a channel per node. All in the hash slot `{quartet}`.
 *
 * @param redis the connection for commands; BullMQ's producers share it, which keeps their order
 * @param options.replicate waited for before a client is told that something is stored
 */
export function createRedisStore(
  redis: Client,
  connect: Connect,
  {
    replicate = async () => undefined,
    perOrigin = 50,
    patienceMs = 3 * 86_400_000,
    circuitWaitsMs = CIRCUIT_WAITS_MS,
  }: RedisStoreOptions = {},
): RedisStore {
  const keys = createKeys()
  const node = randomBytes(6).toString('base64url')
  const follow = createFollow({ redis, connect, keys, node })
  const views = createViews(redis, keys)
  const accept = defineScript<string[]>(redis, 'accept', ['accepting'])
  const withdraw = defineScript<number>(redis, 'withdraw')
  const commit = defineScript<string[]>(redis, 'commit')
  const read = defineScript<[number, number, string, ...string[]] | null>(redis, 'read')
  const overdue = defineScript<string[]>(redis, 'overdue')
  const forget = defineScript<number>(redis, 'forget')
  const lease = defineScript<number>(redis, 'lease')
  const release = defineScript<number>(redis, 'release')
  const announce = defineScript<[number, ...string[]]>(redis, 'announce')
  const clock = createClock()
  const deliveries = createDeliveries({
    redis,
    keys,
    follow,
    replicate,
    perOrigin,
    patienceMs,
    circuitWaitsMs,
    now: clock.now,
  })

  return {
    async accept(job): Promise<Accepted> {
      const { record, event, input, callback, idempotency } = job
      const { id, tenant, type } = record
      const waiting = [keys.waiting(type), keys.tenantWaiting(type, tenant)]
      const base = [...waiting, keys.due, keys.list(tenant), keys.job(id), keys.journal(id)]
      const args = [
        id,
        packRecord(record),
        packEvent(record, record.seq, event),
        input,
        dueOf(record),
        filterOf(callback),
        JSON.stringify(callback),
        keys.job(''),
        job.maxWaiting,
        job.maxWaitingPerTenant ?? '',
        callback ? originOf(callback.url) : '',
      ]
      const [status, owner] = await (idempotency
        ? accept(
            [...base, keys.idempotency(tenant, idempotency.key)],
            [...args, idempotency.fingerprint, idempotency.keepMs],
          )
        : accept(base, args))
      await replicate(keys.due)
      return owner === undefined
        ? { status: status as 'accepted' | 'full' | 'tenant_full' }
        : { status: status as 'duplicate' | 'mismatch', id: owner }
    },

    async withdraw({ tenant, id, type }) {
      const base = [keys.job(id), keys.journal(id), keys.due, keys.list(tenant)]
      await withdraw([...base, keys.waiting(type), keys.tenantWaiting(type, tenant)], [id])
    },

    async load(ids) {
      const pipeline = redis.pipeline()
      for (const id of ids) pipeline.hmget(keys.job(id), 'record', 'version', 'input')
      const replies = (await pipeline.exec()) ?? []
      return replies.map(([error, reply], index) => {
        if (error) throw error
        return toStored(ids[index] ?? '', reply as (string | null)[])
      })
    },

    async apply(fence, changes): Promise<Applied> {
      const prefixes = [keys.job(''), keys.journal(''), keys.waiting(''), keys.node('')]
      const head = [fence?.source ?? '', fence?.from ?? '', fence?.to ?? '', ...prefixes, node]
      const applying = commit(
        [keys.cursors, keys.due, keys.started],
        [...head, clock.now() + CALLBACK_CHECK_MS, ...changes.flatMap(changeArgs)],
      )
      const [status, ...rest] = await applying.catch((error: unknown) => {
        // It may have been applied all the same.
        follow.doubt(changes.map(({ record }) => record.id))
        throw error
      })
      if (status === 'fenced') return { status, cursor: rest[0] || null }
      if (status === 'conflict') return { status, ids: rest }
      for (const { record, events } of changes) follow.tell(record.id, events)
      // What a source told can be read from it again; what the gateway decided cannot.
      if (!fence) await replicate(keys.due)
      return { status: 'applied', callbacks: rest }
    },

    async cursor(source) {
      return redis.hget(keys.cursors, source)
    },

    get: views.get,
    list: views.list,

    async read(id, after, limit) {
      const reply = await read([keys.job(id), keys.journal(id)], [after, limit, PAGE_BYTES])
      if (!reply) return null
      const [trimmed, more, text, ...kept] = reply
      const record = unpackRecord(id, text)
      const first = Math.max(after, trimmed) + 1
      const events = kept.map((each, index) => toEvent(unpackEvent(record, first + index, each)))
      return { trimmed, more: more === 1, events }
    },

    follow: follow.follow,

    intake: createIntake({ redis, keys, replicate, follow }),

    async overdue(now, limit, claimMs) {
      return overdue([keys.due], [now, limit, now + claimMs])
    },

    async postpone(id, due) {
      await redis.zadd(keys.due, 'XX', due, id)
    },

    async suspectAll(now) {
      let cursor = '0'
      do {
        const [next, found] = await redis.zscan(keys.due, cursor, 'COUNT', 1_000)
        const ids = found.filter((_, index) => index % 2 === 0)
        if (ids.length > 0) await redis.zadd(keys.due, 'XX', 'LT', ...ids.flatMap((id) => [now, id]))
        cursor = next
      } while (cursor !== '0')
    },

    async forget(tenant, id, when) {
      const base = [keys.job(id), keys.journal(id), keys.tries(id), keys.due, keys.list(tenant)]
      return (await forget(base, [id, when ?? ''])) === 1
    },

    async lease(source, owner, ttlMs) {
      return (await lease([keys.lease(source)], [owner, ttlMs])) === 1
    },

    async release(source, owner) {
      await release([keys.lease(source)], [owner])
    },

    deliveries,
    apiKeys: createApiKeys({ redis, keys, follow, replicate }),
    limits: createLimits(redis, keys),

    async announce(node, sources, ttlMs): Promise<Nodes> {
      const sentAt = Date.now()
      const [now, ...known] = await announce([keys.nodes], [node, ttlMs, JSON.stringify(sources)])
      clock.observe(now, sentAt)
      const nodes = new Map<string, readonly string[]>()
      for (let at = 0; at + 1 < known.length; at += 2) {
        nodes.set(known[at] ?? '', JSON.parse(known[at + 1] ?? '') as string[])
      }
      return nodes
    },

    now: clock.now,

    async backlog(types): Promise<Backlog[]> {
      if (types.length === 0) return []
      const pipeline = redis.pipeline().hmget(keys.started, ...types)
      for (const type of types) pipeline.scard(keys.waiting(type))
      const [started, ...waiting] = ((await pipeline.exec()) ?? []).map(([error, reply]) => {
        if (error) throw error
        return reply
      })
      return types.map((_, index) => ({
        waiting: Number(waiting[index]),
        started: Number((started as (string | null)[])[index]),
      }))
    },

    async reportService(origin, openUntil) {
      const change = redis.multi().zremrangebyscore(keys.services, '-inf', clock.now())
      await (
        openUntil === null
          ? change.zrem(keys.services, origin)
          : change.zadd(keys.services, openUntil, origin)
      ).exec()
    },

    async openServices(limit) {
      const range = [keys.services, clock.now(), '+inf', 'WITHSCORES', 'LIMIT', 0, limit] as const
      const reply = await redis.zrangebyscore(...range)
      const origins = reply.filter((_, index) => index % 2 === 0)
      return origins.map((origin, index) => ({ origin, until: Number(reply[2 * index + 1]) }))
    },

    check: () => checkRedis(redis),

    async close() {
      await follow.close()
    },
  }
}

function changeArgs({ version, record, events, input }: Change): (string | number)[] {
  const first = record.seq - events.length + 1
  return [
    record.id,
    version,
    version + 1,
    packRecord(record),
    input === undefined ? '' : input === null ? '-' : `=${input}`,
    dueOf(record),
    record.expiresAt === null ? '' : record.expiresAt + EXPIRY_SLACK_MS,
    record.journalLimit,
    // With its first attempt, or its end, a job has no input any more.
    record.status === 'queued' || input !== null ? '' : record.type,
    record.tenant,
    record.seq,
    events.length,
    ...events.map((event, index) => packEvent(record, first + index, event)),
  ]
}

function toStored(id: string, [record, version, input]: (string | null)[]): Stored | null {
  if (!record || !version) return null
  return { record: unpackRecord(id, record), version: Number(version), input: input ?? null }
}
