import type { Client } from './store/redis/connect.ts'

/** One entry of a queue's event stream, as BullMQ's scripts write it with the move that it tells of. */
export interface ResultEntry {
  /** `<ms>-<n>`: Client's clock and a counter. */
  readonly id: string
  readonly event: string
  readonly jobId: string
  /** The entry's fields, `event` and `jobId` included. */
  readonly fields: Readonly<Record<string, string>>
}

/** Entries that are kept behind the cursor for other readers, such as dashboards. */
const KEEP_MS = 60_000
/** Entries that one trimming looks through: as many as are read at a time, so that it costs no more and keeps up. */
const TRIM_BATCH = 500

/**
 * The result queue of a step: BullMQ's own event stream, `<prefix>:<queue>:events`. Each outcome is in it by the same
 * atomic script that moves the job, so nothing is lost between finishing and telling.
 * Source: BullMQ `src/commands/*.lua`, https://docs.bullmq.io/guide/events
 */
export interface ResultQueue {
  /** Up to `count` entries after `cursor`, waiting up to `blockMs` for the first. */
  read(cursor: string | null, count: number, blockMs: number): Promise<ResultEntry[]>
  /** Whether entries after `cursor` were cut before anybody read them. */
  wasCutPast(cursor: string | null): Promise<boolean>
  /** The id of the newest entry, null if there is none. */
  newest(): Promise<string | null>
  /**
   * Drops entries behind the cursor that are older than a minute, and keeps BullMQ from cutting before it. `settle` is
   * given the jobs that these told to be completed, before they are dropped. True: there is more to drop.
   */
  trim(cursor: string, settle: (ids: readonly string[]) => Promise<void>): Promise<boolean>
  /** Why the latest failed attempts of these jobs failed, '' where none did. */
  failedReasons(ids: readonly string[]): Promise<Map<string, string>>
  /** Interrupts a read that waits. */
  close(): void
}

/**
 * @param connect makes the connection that reading waits on, when there is the first read
 */
export function createResultQueue(
  redis: Client,
  connect: () => Client,
  prefix: string,
  queue: string,
): ResultQueue {
  const stream = `${prefix}:${queue}:events`
  let blocking: Client | null = null
  let interrupt: (error: Error) => void = () => undefined
  // XTRIM leaves the rest of a node, which need not be looked through again.
  let settled = '-'

  return {
    async read(cursor, count, blockMs) {
      const reading = reader().xread('COUNT', count, 'BLOCK', blockMs, 'STREAMS', stream, cursor ?? '0-0')
      const reply = await new Promise<Awaited<typeof reading>>((resolve, reject) => {
        interrupt = reject
        reading.then(resolve, reject)
      })
      return (reply?.[0]?.[1] ?? []).map(([id, pairs]) => toEntry(id, pairs))
    },

    async wasCutPast(cursor) {
      if (cursor === null) return false
      // Our own trimming keeps the entry at the cursor, so without it somebody else's has gone that far or further.
      const [oldest] = await redis.xrange(stream, '-', '+', 'COUNT', 1)
      return oldest === undefined || compareIds(oldest[0], cursor) > 0
    },

    async newest() {
      const [newest] = await redis.xrevrange(stream, '+', '-', 'COUNT', 1)
      return newest?.[0] ?? null
    },

    async trim(cursor, settle) {
      const oldest = `${Math.min(Number(cursor.split('-')[0]), Date.now() - KEEP_MS)}-0`
      // These may be large, and nobody waits on that connection.
      const reply = await reader().xrange(stream, settled, `(${oldest}`, 'COUNT', TRIM_BATCH)
      const entries = reply.map(([id, pairs]) => toEntry(id, pairs))
      await settle(entries.filter(({ event }) => event === 'completed').map(({ jobId }) => jobId))
      const isMore = entries.length === TRIM_BATCH
      const last = entries.at(-1)
      if (last) settled = `(${last.id}`
      await redis.xtrim(stream, 'MINID', '~', isMore && last ? last.id : oldest)
      // A Queue object of somebody else's sets BullMQ's default of 10,000 again, which a burst would exceed.
      await redis.hset(`${prefix}:${queue}:meta`, 'opts.maxLenEvents', 1_000_000)
      return isMore
    },

    async failedReasons(ids) {
      const pipeline = redis.pipeline()
      for (const id of ids) pipeline.hget(`${prefix}:${queue}:${id}`, 'failedReason')
      const replies = (await pipeline.exec()) ?? []
      return new Map(
        replies.map(([error, reason], index) => {
          if (error) throw error
          return [ids[index] ?? '', (reason as string | null) ?? '']
        }),
      )
    },

    close() {
      blocking?.disconnect()
      // While Redis is away, ioredis would keep for ever what waits for the connection.
      interrupt(new Error('The result queue is closed'))
    },
  }

  function reader(): Client {
    blocking ??= connect()
    return blocking
  }
}

function toEntry(id: string, pairs: string[]): ResultEntry {
  const fields: Record<string, string> = {}
  for (let at = 0; at + 1 < pairs.length; at += 2) fields[pairs[at] ?? ''] = pairs[at + 1] ?? ''
  return { id, event: fields['event'] ?? '', jobId: fields['jobId'] ?? '', fields }
}

/** Orders stream ids: negative when `a` comes before `b`. */
export function compareIds(a: string, b: string): number {
  const [aMs = 0, aN = 0] = a.split('-').map(Number)
  const [bMs = 0, bN = 0] = b.split('-').map(Number)
  return aMs - bMs || aN - bN
}

/** When an entry was written, in milliseconds since the epoch by Redis's clock. */
export function timeOf(id: string): number {
  return Number(id.split('-')[0])
}
