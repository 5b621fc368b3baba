import { Redis, type RedisOptions } from 'ioredis'

/**
 * What a connection is for. Each is given up, and made again, when it is silent for longer than any answer may take:
 * a peer that vanished without a word would otherwise be waited for until TCP's own limit, which is hours.
 * `command`: fails at once while Redis is away, so that a request is answered with 503 rather than kept waiting.
 * `blocking`: waits for events as long as it takes. `subscriber`: follows channels and subscribes again by itself.
 */
export type ConnectionPurpose = 'command' | 'blocking' | 'subscriber'

export type Connect = (purpose: ConnectionPurpose) => Redis

type Options = Omit<RedisOptions, 'replyMapping'>

const optionsFor: Readonly<Record<ConnectionPurpose, Options>> = {
  command: {
    enableOfflineQueue: false,
    maxRetriesPerRequest: 0,
    commandTimeout: 1_500,
    socketTimeout: 3_000,
  },
  // Longer than anything that blocks: XREAD here 1 s, BZPOPMIN in a BullMQ worker 10 s.
  blocking: { maxRetriesPerRequest: null, socketTimeout: 15_000 },
  subscriber: { maxRetriesPerRequest: null, socketTimeout: 15_000 },
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
