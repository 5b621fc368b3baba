import type { ApiKey, ApiKeys } from '../api-keys.ts'
import type { Client } from './connect.ts'
import type { createFollow } from './follow.ts'
import type { Keys } from './keys.ts'
import type { Replicate } from './replicate.ts'

/** The field that counts revocations; every other field is a key's id. */
const COUNT = 'revocations'

export interface ApiKeysParts {
  readonly redis: Client
  readonly keys: Keys
  readonly follow: Pick<ReturnType<typeof createFollow>, 'listen'>
  readonly replicate: Replicate
}

/** API keys in one hash, so that a key and the count of revocations are read at the same moment. */
export function createApiKeys({ redis, keys, follow, replicate }: ApiKeysParts): ApiKeys {
  const { apiKeys, tokenSecret } = keys

  return {
    async add(key) {
      await redis.hset(apiKeys, key.id, JSON.stringify(key))
      await replicate(apiKeys)
    },

    async find(id) {
      const [text, count] = await redis.hmget(apiKeys, id, COUNT)
      return { key: text && id !== COUNT ? (JSON.parse(text) as ApiKey) : null, revocations: Number(count) }
    },

    async revocations() {
      return Number(await redis.hget(apiKeys, COUNT))
    },

    async list() {
      const { [COUNT]: _, ...found } = await redis.hgetall(apiKeys)
      const all = Object.values(found).map((text) => JSON.parse(text) as ApiKey)
      return all.toSorted((one, other) => one.createdAt - other.createdAt)
    },

    async revoke(id) {
      if (id === COUNT) return false
      const replies = await redis.multi().hdel(apiKeys, id).hincrby(apiKeys, COUNT, 1).exec()
      const failure = replies?.find(([error]) => error)?.[0]
      if (failure) throw failure
      await redis.publish(apiKeys, id)
      await replicate(apiKeys)
      return replies?.[0]?.[1] === 1
    },

    onRevoked: (listener) => follow.listen(apiKeys, () => listener()),

    async tokenSecret(candidate) {
      await redis.setnx(tokenSecret, candidate)
      return (await redis.get(tokenSecret)) ?? candidate
    },
  }
}
