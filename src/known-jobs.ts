import type { Stored } from './store/store.ts'

/** How many jobs are remembered at a time, and for how long nothing may have happened to one before it makes room. */
const MAX_JOBS = 10_000
const STALE_MS = 60_000

/**
 * What this node knows of jobs under way because it has written it last: so the next change of one needs no reading
 * before it. It may be outdated, as other nodes write as well. The store refuses a change of what is (`conflict`), and
 * whoever would leave a job as it is has to ask the store first.
 */
export interface KnownJobs {
  get(id: string): Stored | undefined
  put(job: Stored): void
  drop(id: string): void
}

export function createKnownJobs(now: () => number = Date.now): KnownJobs {
  const jobs = new Map<string, { readonly job: Stored; readonly at: number }>()

  return {
    get: (id) => jobs.get(id)?.job,
    put(job) {
      const { id } = job.record
      jobs.delete(id)
      // In a backlog those that have waited longest are served next, so they stay and the new ones are not kept.
      if (jobs.size >= MAX_JOBS && !forgetOldest()) return
      jobs.set(id, { job, at: now() })
    },
    drop: (id) => void jobs.delete(id),
  }

  function forgetOldest(): boolean {
    for (const [id, { at }] of jobs) {
      if (at > now() - STALE_MS) return false
      return jobs.delete(id)
    }
    return true
  }
}
