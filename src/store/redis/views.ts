import type { ChainableCommander } from 'ioredis'
import { dataOf, jobText } from '../../job.ts'
import { isTerminal, type JobRecord } from '../../messages.ts'
import type { JobView, ListFilter, Store } from '../store.ts'
import { unpackEvent, unpackRecord } from './compact.ts'
import type { Client } from './connect.ts'
import type { Keys } from './keys.ts'
import { defineScript, type Owned } from './scripts.ts'

/** Records that one listing looks through at most before it hands out what it has found so far. */
const SCAN_LIMIT = 2_000
const SCAN_STEP = 100

/** Reads jobs as clients see them. */
export function createViews(redis: Client, keys: Keys): Pick<Store, 'get' | 'list'> {
  const owned = defineScript<Owned | null>(redis, 'owned')

  return { get, list }

  async function get(tenant: string, id: string): Promise<JobView | null> {
    const reply = await owned([keys.job(id), keys.journal(id)], [JSON.stringify(tenant), -1, -1])
    return reply && toView(unpackRecord(id, reply[0]), reply[2][0])
  }

  async function list(...[tenant, filter, { limit, after }]: Parameters<Store['list']>) {
    const key = keys.list(tenant)
    const step = Math.max(limit, SCAN_STEP)
    const found: JobRecord[] = []
    let next = after
    for (let scanned = 0; scanned < SCAN_LIMIT; scanned += step) {
      const ids = await redis.zrevrangebylex(key, next ? `(${next}` : '+', '-', 'LIMIT', 0, step)
      const records = await recordsOf(ids)
      await dropGone(key, ids, records)
      found.push(...records.filter((record) => record !== null).filter((record) => matches(record, filter)))
      if (found.length > limit)
        return { jobs: await viewsOf(found.slice(0, limit)), next: found[limit - 1]?.id ?? null }
      if (ids.length < step) return { jobs: await viewsOf(found), next: null }
      next = ids.at(-1) ?? next
    }
    return { jobs: await viewsOf(found), next }
  }

  async function recordsOf(ids: readonly string[]): Promise<(JobRecord | null)[]> {
    const texts = await readAll((pipeline) => {
      for (const id of ids) pipeline.hget(keys.job(id), 'record')
    })
    return texts.map((text, index) => (text ? unpackRecord(ids[index] ?? '', text) : null))
  }

  /** Redis dropped them before the watchdog could forget them, and nothing else knows their tenant. */
  async function dropGone(key: string, ids: readonly string[], records: readonly unknown[]): Promise<void> {
    const gone = ids.filter((_, index) => !records[index])
    if (gone.length > 0) await redis.zrem(key, ...gone)
  }

  async function viewsOf(records: readonly JobRecord[]): Promise<JobView[]> {
    const lasts = await readAll((pipeline) => {
      for (const { id } of records) pipeline.lindex(keys.journal(id), -1)
    })
    return records.map((record, index) => toView(record, lasts[index] ?? null))
  }

  async function readAll(ask: (pipeline: ChainableCommander) => void): Promise<(string | null)[]> {
    const pipeline = redis.pipeline()
    ask(pipeline)
    return ((await pipeline.exec()) ?? []).map(([error, reply]) => {
      if (error) throw error
      return reply as string | null
    })
  }
}

function matches({ status, type }: JobRecord, filter: ListFilter): boolean {
  return (filter.status ?? status) === status && (filter.type ?? type) === type
}

function toView(record: JobRecord, last: string | null | undefined): JobView {
  if (!isTerminal(record.status) || !last) return { record, text: jobText(record) }
  return { record, text: dataOf(unpackEvent(record, record.seq, last)) }
}
