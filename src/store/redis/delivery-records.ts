import type { ChainableCommander } from 'ioredis'
import { toEvent, type JobRecord } from '../../messages.ts'
import type { DeadLetter, Deliveries, DeliveryRecord, Try } from '../deliveries.ts'
import type { Client } from './connect.ts'
import { unpackEvent, unpackRecord } from './compact.ts'
import type { Keys } from './keys.ts'
import { defineScript, type Owned } from './scripts.ts'

/** How long a dead letter is kept, and its job with it. */
const KEPT_MS = 7 * 86_400_000
/** Dead letters that one listing looks through at most before it hands out what it has found so far. */
const SCAN_LIMIT = 2_000

/** Shows what became of deliveries. A try is kept as a JSON array in the order of {@link packTry}. */
export function createDeliveryRecords({
  redis,
  keys,
  now,
}: {
  readonly redis: Client
  readonly keys: Keys
  readonly now: () => number
}): { readonly keptMs: number; readonly of: Deliveries['record']; readonly dead: Deliveries['dead'] } {
  const owned = defineScript<Owned | null>(redis, 'owned')

  return { keptMs: KEPT_MS, of, dead }

  async function of(...[tenant, id]: Parameters<Deliveries['record']>) {
    const fields = [
      'trimmed',
      'origin',
      'gone',
      'delivering',
      'at',
      'claim',
      'redeliver',
      'redeliver_at',
    ] as const
    const reply = await owned([keys.job(id), keys.tries(id)], [JSON.stringify(tenant), 0, -1, ...fields])
    if (!reply) return null
    const [text, state, tries] = reply
    const [trimmed, origin = null, gone, delivering, at, claim, redeliver, redeliverAt] = state
    const record = unpackRecord(id, text)
    const open = origin ? await redis.hget(`${keys.callbacks}:circuit:${origin}`, 'until') : null
    const openUntil = open && Number(open) > now() ? Number(open) : null
    const next = (due: string | null | undefined) =>
      claim ? null : Math.max(Number(due ?? 0), openUntil ?? 0)

    const deliveries = bySeq(tries)
    for (const known of await deadOf(id, [...deliveries.values()])) {
      deliveries.set(known.seq, { ...known, status: 'dead' })
    }
    const pending = new Map((redeliver?.match(/\d+/g) ?? []).map((seq) => [Number(seq), next(redeliverAt)]))
    if (delivering) pending.set(Number(delivering), next(at))
    for (const [seq, nextTryAt] of pending) {
      const known = deliveries.get(seq)
      const type = known?.type ?? (await typeOf(record, seq, Number(trimmed ?? 0)))
      deliveries.set(seq, { seq, type, status: 'pending', nextTryAt, tries: known?.tries ?? [] })
    }
    const sorted = [...deliveries.values()].toSorted((one, other) => one.seq - other.seq)
    return { origin, isGone: gone === '1', openUntil, deliveries: sorted }
  }

  /** Those that are dead letters, whatever their tries say: an earlier return address may have got one. */
  async function deadOf(id: string, deliveries: readonly DeliveryRecord[]): Promise<DeliveryRecord[]> {
    if (deliveries.length === 0) return []
    const origins = await redis.hmget(keys.job(id), ...deliveries.map(({ seq }) => `dead:${seq}`))
    return deliveries.filter((_, index) => origins[index] !== null)
  }

  /** What an event is of which no try is kept; nothing if the journal has it no more. */
  async function typeOf(record: JobRecord, seq: number, trimmed: number): Promise<string> {
    const kept = seq > trimmed ? await redis.lindex(keys.journal(record.id), seq - 1 - trimmed) : null
    return kept === null ? '' : toEvent(unpackEvent(record, seq, kept)).type
  }

  async function dead(...[tenant, { origin, since }, { limit, after }]: Parameters<Deliveries['dead']>) {
    const key = keys.dead(tenant)
    const oldest = Math.max(since ?? 0, now() - KEPT_MS)
    const letters: DeadLetter[] = []
    let [newest, skip] = after ? after.split('.').map(Number) : [Infinity, 0]
    for (let scanned = 0; scanned < SCAN_LIMIT; scanned += limit) {
      const found = await redis.zrevrangebyscore(
        key,
        newest === Infinity ? '+inf' : (newest ?? 0),
        oldest,
        'WITHSCORES',
        'LIMIT',
        skip ?? 0,
        limit + 1,
      )
      const page = (await lettersOf(found)).slice(0, limit)
      const last = page.at(-1)
      const isLast = found.length / 2 <= limit
      if (last) {
        const same = page.filter(({ diedAt }) => diedAt === last.diedAt).length
        skip = (last.diedAt === newest ? (skip ?? 0) : 0) + same
        newest = last.diedAt
      }
      letters.push(
        ...page.filter((letter) => letter.origin !== '' && letter.origin === (origin ?? letter.origin)),
      )
      if (isLast) return { letters, next: null }
      if (letters.length > 0) break
    }
    return { letters, next: `${newest}.${skip}` }
  }

  /** From members and scores; one whose job is gone has no origin. */
  async function lettersOf(found: readonly string[]): Promise<DeadLetter[]> {
    const names = found.filter((_, index) => index % 2 === 0).map((member) => member.split('.'))
    const origins = await readAll((pipeline) => {
      for (const [id = '', seq] of names) pipeline.hget(keys.job(id), `dead:${seq}`)
    })
    return names.map(([id = '', seq], index) => ({
      id,
      seq: Number(seq),
      origin: (origins[index] as string | null) ?? '',
      diedAt: Number(found[2 * index + 1]),
    }))
  }

  async function readAll(ask: (pipeline: ChainableCommander) => void): Promise<unknown[]> {
    const pipeline = redis.pipeline()
    ask(pipeline)
    if (pipeline.length === 0) return []
    return ((await pipeline.exec()) ?? []).map(([error, reply]) => {
      if (error) throw error
      return reply
    })
  }
}

const outcomes = ['delivered', 'failed', 'dead'] as const

export function packTry(seq: number, made: Try): string {
  const { type, at, durationMs, outcome, statusCode, reason, error, isRedelivery } = made
  const code = outcomes.indexOf(outcome)
  return JSON.stringify([seq, type, at, durationMs, code, statusCode, reason, error, isRedelivery ? 1 : 0])
}

type PackedTry = [number, string, number, number, number, number | null, string | null, string | null, 0 | 1]

function bySeq(tries: readonly string[]): Map<number, DeliveryRecord> {
  const known = new Map<number, DeliveryRecord>()
  for (const text of tries) {
    const [seq, type, at, durationMs, code, statusCode, reason, error, redelivery] = JSON.parse(
      text,
    ) as PackedTry
    const outcome = outcomes[code] ?? 'failed'
    const made = { type, at, durationMs, outcome, statusCode, reason, error, isRedelivery: redelivery === 1 }
    const before = known.get(seq)
    // Delivered once is delivered, whatever became of a redelivery; what is under way is said by the queue.
    const status =
      before?.status === 'delivered' || outcome === 'delivered'
        ? 'delivered'
        : outcome === 'dead'
          ? 'dead'
          : 'void'
    known.set(seq, { seq, type, status, nextTryAt: null, tries: [...(before?.tries ?? []), made] })
  }
  return known
}
