import type { Redis } from 'ioredis'
import { dataOf, jobText } from '../../job.ts'
import { isTerminal, type JobRecord } from '../../messages.ts'
import type { JobView, Store } from '../store.ts'
import type { Keys } from './keys.ts'

/** Records that one listing looks through at most before it hands out what it has found so far. */
const SCAN_LIMIT = 2_000

/** Reads jobs as clients see them. */
export function createViews(redis: Redis, keys: Keys): Pick<Store, 'get' | 'list'> {
  return { get, list }

  async function get(tenant: string, id: string): Promise<JobView | null> {
    const [view] = await views([id])
    return view && view.record.tenant === tenant ? view : null
  }

  async function list(...[tenant, filter, { limit, after }]: Parameters<Store['list']>) {
    const jobs: JobView[] = []
    let last = after
    for (let scanned = 0; scanned < SCAN_LIMIT;) {
      const ids = await redis.zrevrangebylex(
        keys.list(tenant),
        last ? `(${last}` : '+',
        '-',
        'LIMIT',
        0,
        limit,
      )
      for (const [index, view] of (await views(ids)).entries()) {
        last = ids[index] ?? last
        if (!view || (filter.status ?? view.record.status) !== view.record.status) continue
        if ((filter.type ?? view.record.type) !== view.record.type) continue
        jobs.push(view)
        if (jobs.length === limit) return { jobs, next: last }
      }
      if (ids.length < limit) return { jobs, next: null }
      scanned += ids.length
    }
    return { jobs, next: last }
  }

  async function views(ids: readonly string[]): Promise<(JobView | null)[]> {
    const pipeline = redis.pipeline()
    for (const id of ids) pipeline.hget(keys.job(id), 'record').lindex(keys.journal(id), -1)
    const replies = ((await pipeline.exec()) ?? []).map(([error, reply]) => {
      if (error) throw error
      return reply as string | null
    })
    return ids.map((_, index) => toView(replies[2 * index], replies[2 * index + 1]))
  }
}

function toView(recordText: string | null | undefined, lastEvent: string | null | undefined): JobView | null {
  if (!recordText) return null
  const record = JSON.parse(recordText) as JobRecord
  return { record, text: isTerminal(record.status) && lastEvent ? dataOf(lastEvent) : jobText(record) }
}
