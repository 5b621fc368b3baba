import type { Cluster, Redis } from 'ioredis'
import type { Client } from './connect.ts'

/** Whether Redis answers and keeps what it is given. Rejects with an Error that says what is wrong. */
export async function checkRedis(redis: Client): Promise<void> {
  if (redis.status !== 'ready') throw new Error(`Redis is not connected (${redis.status})`)
  if (!redis.isCluster) return checkNode(redis as Redis)
  const state = field(await redis.cluster('INFO'), 'cluster_state')
  if (state !== 'ok') throw new Error(`Expected the Redis Cluster's state to be ok, got ${state}`)
  await Promise.all((redis as Cluster).nodes('master').map(checkNode))
}

async function checkNode(redis: Redis): Promise<void> {
  const info = await redis.info()
  const policy = field(info, 'maxmemory_policy')
  if (policy !== 'noeviction')
    throw new Error(`Expected Redis's maxmemory-policy to be noeviction, got ${policy}`)
  if (field(info, 'loading') === '1') throw new Error('Redis is loading its data')
  const limit = Number(field(info, 'maxmemory'))
  if (limit > 0 && Number(field(info, 'used_memory')) >= limit)
    throw new Error('Redis is full (maxmemory reached)')
}

function field(info: string, name: string): string | undefined {
  return new RegExp(`^${name}:(.*?)\\r?$`, 'm').exec(info)?.[1]
}
