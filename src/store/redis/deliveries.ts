import { toEvent } from '../../messages.ts'
import type { Callback, CallbackState, Claim, Deliveries } from '../deliveries.ts'
import type { Client } from './connect.ts'
import type { createFollow } from './follow.ts'
import type { Replicate } from './replicate.ts'
import { unpackEvent, unpackRecord } from './compact.ts'
import { createDeliveryRecords, packTry } from './delivery-records.ts'
import { filterOf, originOf, type Keys } from './keys.ts'
import { defineScript, type Owned } from './scripts.ts'

/** When the watchdog looks at a job that was given a return address. */
const CHECK_MS = 10_000
/** Tries that are kept of a job. */
const KEPT_TRIES = 1_000
const JITTER = 0.2

export interface DeliveriesParts {
  readonly redis: Client
  readonly keys: Keys
  readonly follow: Pick<ReturnType<typeof createFollow>, 'onDue'>
  readonly replicate: Replicate
  readonly now: () => number
  /** Tries of one origin that may be under way. */
  readonly perOrigin: number
  /** How long a delivery waits for an origin whose circuit is open. */
  readonly patienceMs: number
  /** How long a circuit that opens stays open, the first time and each further time in a row; ± 20 %. */
  readonly circuitWaitsMs: readonly number[]
}

type ClaimReply = [
  id: string,
  token: number,
  origin: string,
  seq: number,
  event: string,
  redelivery: string,
  overdue: string,
  generation: number,
  attempts: number,
  callback: string,
  record: string,
]

/** The callback queue in Redis: callbacks.lua says how. */
export function createDeliveries(parts: DeliveriesParts): Deliveries {
  const { redis, keys, follow, replicate, now } = parts
  const define = <Reply>(name: string) => defineScript<Reply>(redis, name, ['callbacks'])
  const owned = defineScript<Owned | null>(redis, 'owned')
  const handOver = define<null>('hand-over')
  const setCallback = define<number>('set-callback')
  const claim = define<[string, ...ClaimReply[]]>('claim')
  const settle = define<null>('settle')
  const redeliver = define<'scheduled' | 'under_way' | 'no_callback' | 'unknown'>('redeliver')
  const circuitWaits = JSON.stringify(parts.circuitWaitsMs)
  /** What every script of the queue is given first. */
  const head = () => [now(), parts.perOrigin, keys.job(''), keys.journal(''), circuitWaits]
  const records = createDeliveryRecords(parts)

  return {
    async handOver(id) {
      await handOver([keys.callbacks], [...head(), id])
    },

    async setCallback(id, callback, after) {
      const { url } = callback
      const args = [id, JSON.stringify(callback), filterOf(callback), originOf(url), after, now() + CHECK_MS]
      const isSet = (await setCallback([keys.callbacks, keys.due], [...head(), ...args])) === 1
      await replicate(keys.due)
      return isSet
    },

    async callback(id): Promise<CallbackState | null> {
      const fields = ['callback', 'origin', 'delivering', 'generation', 'redeliver', 'died']
      const [callback, origin, seq, generation, redelivering, died] = await redis.hmget(
        keys.job(id),
        ...fields,
      )
      if (!callback) return null
      return {
        callback: JSON.parse(callback) as Callback,
        // Without an origin it is in the queue of an earlier version (hand-over.lua).
        pending: seq && origin ? { seq: Number(seq), generation: Number(generation) } : null,
        isRedelivering: redelivering !== null,
        keptUntil: died ? Number(died) + records.keptMs : null,
      }
    },

    async claim(limit, leaseMs) {
      const args = [limit, now() + leaseMs, parts.patienceMs]
      const [next, ...claimed] = await claim([keys.callbacks], [...head(), ...args])
      return { claims: claimed.map(toClaim), nextAt: next === '' ? null : Number(next) }
    },

    async settle({ id, tenant, token, origin, seq, isRedelivery }, { ending, at = now(), ...settlement }) {
      const health = settlement.origin === 'unknown' ? '' : settlement.origin
      const jitter = 1 - JITTER + 2 * JITTER * Math.random()
      const claim = [id, token, origin, seq, isRedelivery ? 'redelivery' : '']
      const end = [ending, Math.round(at), health, jitter, packTry(seq, settlement.record)]
      const args = [...head(), ...claim, ...end, KEPT_TRIES, records.keptMs]
      await settle([keys.callbacks, keys.tries(id), keys.dead(tenant)], args)
    },

    async redeliver(tenant, id, seq) {
      const isOurs = await owned([keys.job(id), keys.tries(id)], [JSON.stringify(tenant), 1, 0])
      if (!isOurs) return 'not_found'
      const outcome = await redeliver([keys.callbacks, keys.dead(tenant)], [...head(), id, seq])
      await replicate(keys.due)
      return outcome
    },

    onDue: follow.onDue,
    record: records.of,
    dead: records.dead,

    async openCircuits(limit) {
      const found = await redis.zrangebyscore(
        `${keys.callbacks}:circuits`,
        now(),
        '+inf',
        'WITHSCORES',
        'LIMIT',
        0,
        limit,
      )
      const circuits = []
      for (let at = 0; at + 1 < found.length; at += 2)
        circuits.push({ origin: found[at] ?? '', until: Number(found[at + 1]) })
      return circuits
    },
  }
}

function toClaim(reply: ClaimReply): Claim {
  const [id, token, origin, seq, event, redelivery, overdue, generation, attempts, callback, text] = reply
  const record = unpackRecord(id, text)
  return {
    id,
    tenant: record.tenant,
    token,
    origin,
    seq,
    generation,
    url: (JSON.parse(callback) as Callback).url,
    event: event === '' ? null : toEvent(unpackEvent(record, seq, event)),
    attempts,
    isRedelivery: redelivery !== '',
    isOverdue: overdue !== '',
  }
}
