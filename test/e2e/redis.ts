import type { Test } from 'tap'
import type { Client } from '../../src/store/redis/connect.ts'
import * as single from '../helper.ts'
import { startCluster } from '../redis-cluster.ts'

/** Where an end-to-end test keeps its jobs. */
export interface RedisUnderTest {
  /** As `REDIS_URL`. */
  readonly url: string
  /** The prefix of BullMQ's keys there. */
  readonly prefix: string
  /** A plain worker that needs nothing but a port of it. */
  readonly plainWorker: string
  readonly port: number
  connect(): Client
}

/** One Redis of the test's own, or a cluster when `TEST_REDIS` is `cluster` (test/cluster/). */
export async function startRedis(t: Test): Promise<RedisUnderTest> {
  if (process.env['TEST_REDIS'] !== 'cluster') {
    const redis = await single.startRedis(t)
    return Object.assign(redis, { prefix: 'bull', plainWorker: 'test/e2e/plain-worker.mjs' })
  }
  const cluster = await startCluster(t)
  const plainWorker = 'test/e2e/plain-cluster-worker.mjs'
  return { ...cluster, prefix: '{bull}', plainWorker, port: cluster.nodes[0]?.port ?? 0 }
}
