import { Cluster, Redis, type RedisOptions } from 'ioredis'
import { parseAddress, type RedisAddress, type Seed } from './address.ts'

/**
 * What a connection is for. Each is given up, and made again, when it is silent for longer than any answer may take:
 * a peer that vanished without a word would otherwise be waited for until TCP's own limit, which is hours.
 * `command`: fails at once while Redis is away, so that a request is answered with 503 rather than kept waiting.
 * `blocking`: waits for events as long as it takes. `subscriber`: follows channels and subscribes again by itself.
 */
export type ConnectionPurpose = 'command' | 'blocking' | 'subscriber'

/** One Redis, or a Redis Cluster. */
export type Client = Redis | Cluster

/** A subscriber is a single connection also in a cluster, whose nodes pass on what is published to each of them. */
export interface Connect {
  (purpose: 'subscriber'): Redis
  (purpose: ConnectionPurpose): Client
}

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

const CONNECT_MS = 5_000

/**
 * Makes connections to the Redis, or the Redis Cluster, at `url`.
 * @param onError told of every connection error; ioredis reconnects by itself
 */
export function createConnect(url: string, onError: (error: Error) => void): Connect {
  const address = parseAddress(url)
  return ((purpose: ConnectionPurpose) => {
    const client = address.kind === 'cluster' ? joinCluster(address, purpose) : dial(address, purpose)
    client.on('error', onError)
    return client
  }) as Connect
}

const retryDelay = (attempt: number) => Math.min(attempt * 50, 1_000)

function dial(address: Exclude<RedisAddress, { kind: 'cluster' }>, purpose: ConnectionPurpose): Redis {
  const options: Options = {
    ...optionsFor[purpose],
    connectTimeout: CONNECT_MS,
    retryStrategy: retryDelay,
  }
  return address.kind === 'socket'
    ? new Redis({ ...options, path: address.path })
    : new Redis(address.url, options)
}

function joinCluster(
  { seeds, options }: Extract<RedisAddress, { kind: 'cluster' }>,
  purpose: ConnectionPurpose,
): Client {
  if (purpose === 'subscriber') return subscribeToAny(seeds, options)
  return new Cluster([...seeds], {
    enableOfflineQueue: purpose === 'blocking',
    clusterRetryStrategy: retryDelay,
    // A command that meets a failover is tried for as long as one that meets a silent Redis.
    maxRedirections: 14,
    retryDelayOnFailover: 100,
    retryDelayOnClusterDown: 100,
    redisOptions: { ...optionsFor[purpose], ...options, connectTimeout: CONNECT_MS },
  })
}

/** One after another, until one answers: what is published reaches every node, and any of them may be gone. */
function subscribeToAny(seeds: readonly Seed[], options: Omit<RedisOptions, 'replyMapping'>): Redis {
  let turn = Math.floor(Math.random() * seeds.length)
  const redis: Redis = new Redis({
    ...optionsFor.subscriber,
    ...options,
    ...seeds[turn],
    connectTimeout: 1_000,
    retryStrategy(attempt) {
      // ioredis reads the address from its options at each attempt.
      Object.assign(redis.options, seeds[++turn % seeds.length])
      return retryDelay(attempt)
    },
  })
  return redis
}
