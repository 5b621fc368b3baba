import type { Redis } from 'ioredis'
import { toEvent } from '../../messages.ts'
import type { Listener, Unfollow } from '../store.ts'
import type { Connect } from './connect.ts'
import type { Keys } from './keys.ts'

const PING_MS = 5_000

/**
 * Live following over pub/sub: one connection per process, opened with the first follower. Messages are only as
 * reliable as the connection; whenever it comes back, every listener is told that it may have missed something.
 */
export function createFollow(connect: Connect, keys: Keys) {
  const listeners = new Map<string, Set<Listener>>()
  let subscriber: Redis | null = null
  let pulse: NodeJS.Timeout | undefined

  const wakers = new Set<(at: number) => void>()

  return { follow, onDue, close }

  /** Also resubscribed to by itself; until it is for the first time, the listener has to look on its own. */
  function onDue(listener: (at: number) => void): Unfollow {
    wakers.add(listener)
    connection()
      .subscribe(keys.callbacks)
      .then(
        () => listener(0),
        () => undefined,
      )
    return () => void wakers.delete(listener)
  }

  async function follow(id: string, listener: Listener): Promise<Unfollow> {
    const channel = keys.channel(id)
    const known = listeners.get(channel)
    if (known) known.add(listener)
    else listeners.set(channel, new Set([listener]))
    const unfollow = () => leave(channel, listener)
    try {
      // Also when somebody else has subscribed: the answer comes after theirs, so the channel is open by then.
      await connection().subscribe(channel)
    } catch (error) {
      unfollow()
      throw error
    }
    return unfollow
  }

  function leave(channel: string, listener: Listener): void {
    const remaining = listeners.get(channel)
    if (!remaining?.delete(listener) || remaining.size > 0) return
    listeners.delete(channel)
    // A failure means that the connection is gone, and its subscriptions with it.
    connection()
      .unsubscribe(channel)
      .catch(() => undefined)
  }

  function connection(): Redis {
    if (subscriber) return subscriber
    const redis = connect('subscriber')
    let wasReady = false
    redis.on('message', (channel: string, message: string) => {
      if (channel === keys.callbacks) return wake(Number(message))
      const events = message.split('\n').map(toEvent)
      for (const listener of listeners.get(channel) ?? []) listener.events(events)
    })
    redis.on('ready', () => {
      if (wasReady) resubscribe(redis)
      wasReady = true
    })
    // Nothing else is asked on it for long, and only what is asked can be missed.
    pulse = setInterval(() => {
      if (redis.status === 'ready') redis.ping().catch(() => undefined)
    }, PING_MS)
    subscriber = redis
    return redis
  }

  function resubscribe(redis: Redis): void {
    const channels = [...listeners.keys(), ...(wakers.size > 0 ? [keys.callbacks] : [])]
    if (channels.length === 0) return
    const interrupt = () => {
      for (const channel of channels)
        for (const listener of listeners.get(channel) ?? []) listener.interrupted()
      wake(0)
    }
    // When the connection breaks again, its next 'ready' comes here again.
    redis.subscribe(...channels).then(interrupt, () => undefined)
  }

  function wake(at: number): void {
    for (const waker of wakers) waker(at)
  }

  async function close(): Promise<void> {
    clearInterval(pulse)
    subscriber?.disconnect()
  }
}
