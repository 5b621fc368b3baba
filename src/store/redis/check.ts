import type { Redis } from 'ioredis'

/** Whether Redis answers and keeps what it is given. Rejects with an Error that says what is wrong. */
export async function checkRedis(redis: Redis): Promise<void> {
  if (redis.status !== 'ready') throw new Error(`Redis is not connected (${redis.status})`)
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
