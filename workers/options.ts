import type { ConnectionOptions } from 'bullmq'

/** What every sample worker needs to know: where its queue lives. */
export interface SampleWorkerOptions {
  /** An ioredis connection made with `maxRetriesPerRequest: null`, or BullMQ's connection options. */
  connection: ConnectionOptions
  /** The prefix of BullMQ's keys. Default: `bull`, as BullMQ's own. */
  prefix?: string
}

/**
 * How long a worker may be silent, in milliseconds, before its job goes to another one. A killed worker's job
 * runs again after at most 10 s for its lock to expire and 5 s for someone to notice, at most twice.
 *
 * @see https://docs.bullmq.io/guide/workers/stalled-jobs
 */
export const leases = { lockDuration: 10_000, stalledInterval: 5_000, maxStalledCount: 2 }
