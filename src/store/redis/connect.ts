import { Redis, type RedisOptions } from 'ioredis'

/**
 * What a connection is for.
 * `command`: fails at once while Redis is away, so that a request is answered with 503 rather than kept waiting.
 * `blocking`: waits for events as long as it takes. `subscriber`: follows channels and subscribes again by itself.
 */
export type ConnectionPurpose = 'command' | 'blocking' | 'subscriber'

export type Connect = (purpose: ConnectionPurpose) => Redis

type Options = Omit<RedisOptions, 'replyMapping'>

const optionsFor: Readonly<Record<ConnectionPurpose, Options>> = {
  command: { enableOfflineQueue: false, maxRetriesPerRequest: 0, commandTimeout: 1_500 },
  blocking: { maxRetriesPerRequest: null },
  subscriber: { maxRetriesPerRequest: null },
}

/**
 * Makes connections to the Redis at `url` (redis://, rediss:// or unix:///path/to/socket).
 * @param onError told of every connection error; ioredis reconnects by itself
 */
export function createConnect(url: string, onError: (error: Error) => void): Connect {
  return (purpose) => {
    const options: Options = {
      ...optionsFor[purpose],
      connectTimeout: 5_000,
      retryStrategy: (attempt) => Math.min(attempt * 50, 1_000),
    }
    const redis = url.startsWith('unix://')
      ? new Redis({ ...options, path: url.slice('unix://'.length) })
      : new Redis(url, options)
    redis.on('error', onError)
    return redis
  }
}
