import type { Redis } from 'ioredis'
import { toEvent } from '../../messages.ts'
import type { Followed, Listener, Unfollow } from '../store.ts'
import { unpackEvent, unpackRecord } from './compact.ts'
import type { Client, Connect } from './connect.ts'
import type { Keys } from './keys.ts'
import { defineScript } from './scripts.ts'

const PING_MS = 5_000
/** Every job that is followed is looked after once in so many pings, in case Redis has lost who follows it. */
const PINGS_PER_ROUND = 6
/** How long what this node has applied may take to be told here before a listener is to look by itself. */
const TELL_MS = 100
/** How long a job that is new may be without its first listener. */
const EXPECT_MS = 10_000

interface Topic {
  readonly listeners: Set<Listener>
  /** The last seq that was told, or that the job was at when it was looked after; 0 before that. */
  seq: number
  /** Until when the first listener of a new job is waited for, milliseconds since the epoch; null once it was there. */
  expectedUntil: number | null
  ended: boolean
}

export interface FollowParts {
  readonly redis: Client
  readonly connect: Connect
  readonly keys: Keys
  /** This process's name among those that follow: no other has it, and it has no spaces. */
  readonly node: string
}

/**
 * Live following. A job's hash says which nodes follow it, and whoever applies a change tells each of them over the
 * node's own channel; what this node applies itself it hears at once. A channel is only as reliable as its connection:
 * whenever that comes back, every listener is told that it may have missed something.
 */
export function createFollow({ redis, connect, keys, node }: FollowParts) {
  const watch = defineScript<number>(redis, 'watch')
  const unwatch = defineScript<null>(redis, 'unwatch')
  const topics = new Map<string, Topic>()
  /** Whoever hears a channel of its own, for as long as the process lives. */
  const hearers = new Map<string, Set<(message: string | null) => void>>()
  /** What this node has applied, as its channel tells: job → seq. */
  let applied = new Map<string, number>()
  let subscriber: Redis | null = null
  let subscribed: Promise<unknown> | null = null
  let pulse: NodeJS.Timeout | undefined
  let round: string[] = []
  let isOpen = false

  return { follow, expect, forgo, tell, doubt, onDue, listen, close }

  function onDue(listener: (at: number) => void): Unfollow {
    return listen(keys.callbacks, (message) => listener(Number(message)))
  }

  /**
   * Hears a channel, and null whenever something may have been missed. Also resubscribed to by itself; until it is for
   * the first time, the listener has to look on its own.
   */
  function listen(channel: string, listener: (message: string | null) => void): Unfollow {
    const known = hearers.get(channel) ?? new Set()
    hearers.set(channel, known.add(listener))
    connection()
      .subscribe(channel)
      .then(
        () => listener(null),
        () => undefined,
      )
    return () => void known.delete(listener)
  }

  async function follow(id: string, listener: Listener): Promise<Followed> {
    const known = topics.get(id)
    const topic = known ?? { listeners: new Set(), seq: 0, expectedUntil: null, ended: false }
    topics.set(id, topic)
    topic.listeners.add(listener)
    const unfollow = () => leave(id, topic, listener)
    // The first listener of a new job has missed nothing: whoever took it in has said that it is followed.
    const isFirst = topic.expectedUntil !== null
    topic.expectedUntil = null
    if (isFirst && topic.seq === 1 && !topic.ended) return { unfollow, from: 1 }
    try {
      await open()
      const seq = await watch([keys.job(id), keys.journal(id)], [node])
      // Whoever has joined before may still have to be told what has come since.
      if (topic.seq === 0) topic.seq = Math.max(seq, 0)
    } catch (error) {
      unfollow()
      throw error
    }
    return { unfollow, from: null }
  }

  /**
   * A job is about to be taken in that somebody here will follow.
   *
   * @returns this node's name, for the job's hash, if what happens to it from its first event on will be heard, as is
   *   the case while the channel is open; null if not
   */
  function expect(id: string): string | null {
    void open().catch(() => undefined)
    if (subscriber?.status !== 'ready' || !isOpen) return null
    topics.set(id, { listeners: new Set(), seq: 1, expectedUntil: Date.now() + EXPECT_MS, ended: false })
    return node
  }

  /** It was not taken in. */
  function forgo(id: string): void {
    const topic = topics.get(id)
    if (topic && topic.listeners.size === 0) topics.delete(id)
  }

  /** These events of a job were applied, here or elsewhere. */
  function tell(id: string, texts: readonly string[]): void {
    const topic = topics.get(id)
    if (!topic) return
    const events = texts.map(toEvent)
    const last = events.at(-1)
    if (!last || last.seq <= topic.seq) return
    topic.seq = last.seq
    topic.ended ||= last.terminal
    for (const listener of topic.listeners) listener.events(events)
  }

  /** Something may have been applied to these jobs of which nothing was heard. */
  function doubt(ids: Iterable<string>): void {
    for (const id of ids) for (const listener of topics.get(id)?.listeners ?? []) listener.interrupted()
  }

  function leave(id: string, topic: Topic, listener: Listener): void {
    if (!topic.listeners.delete(listener) || topic.listeners.size > 0) return
    drop(id, topic)
  }

  function drop(id: string, topic: Topic): void {
    if (topics.get(id) === topic) topics.delete(id)
    // A failure leaves a name that the end of the job takes away.
    if (!topic.ended && redis.status === 'ready') unwatch([keys.job(id)], [node]).catch(() => undefined)
  }

  function open(): Promise<unknown> {
    subscribed ??= connection()
      .subscribe(keys.node(node))
      .then(
        () => (isOpen = true),
        (error: unknown) => {
          subscribed = null
          throw error
        },
      )
    return subscribed
  }

  function connection(): Redis {
    if (subscriber) return subscriber
    const made = connect('subscriber')
    let wasReady = false
    made.on('message', (channel: string, message: string) => {
      if (hearers.has(channel)) pass(channel, message)
      else hear(message)
    })
    made.on('close', () => (isOpen = false))
    made.on('ready', () => {
      if (wasReady) resubscribe(made)
      wasReady = true
    })
    // Nothing else is asked on it for long, and only what is asked can be missed.
    pulse = setInterval(() => {
      if (made.status === 'ready') made.ping().catch(() => undefined)
      sweep()
      void lookAfter()
    }, PING_MS)
    subscriber = made
    return made
  }

  /** By lines: a job's id and seq; and unless this node has applied it itself, how many events, the record and them. */
  function hear(message: string): void {
    const lines = message.split('\n')
    for (let at = 0; at < lines.length; at++) {
      const [id = '', seq, count] = lines[at]?.split(' ') ?? []
      if (count === undefined) {
        remember(id, Number(seq))
        continue
      }
      const record = unpackRecord(id, lines[at + 1] ?? '')
      const kept = lines.slice(at + 2, at + 2 + Number(count))
      const first = Number(seq) - kept.length + 1
      tell(
        id,
        kept.map((each, index) => unpackEvent(record, first + index, each)),
      )
      at += 1 + kept.length
    }
  }

  /** What was applied here is told here by whoever applied it; should its answer have been lost, by this. */
  function remember(id: string, seq: number): void {
    const topic = topics.get(id)
    if (!topic || topic.seq >= seq) return
    if (applied.size === 0) setTimeout(compare, TELL_MS).unref()
    applied.set(id, seq)
  }

  function compare(): void {
    const due = applied
    applied = new Map()
    for (const [id, seq] of due) if ((topics.get(id)?.seq ?? seq) < seq) doubt([id])
  }

  function resubscribe(made: Redis): void {
    const channels = [...(subscribed ? [keys.node(node)] : []), ...hearers.keys()]
    if (channels.length === 0) return
    const heard = () => {
      isOpen = subscribed !== null
      doubt(topics.keys())
      for (const channel of hearers.keys()) pass(channel, null)
    }
    // When the connection breaks again, its next 'ready' comes here again.
    made.subscribe(...channels).then(heard, () => undefined)
  }

  /** New jobs whose first listener never came. */
  function sweep(): void {
    for (const [id, topic] of topics) {
      if (topic.expectedUntil !== null && topic.expectedUntil < Date.now()) drop(id, topic)
    }
  }

  /** A failover may lose who follows a job, and nothing else would tell. */
  async function lookAfter(): Promise<void> {
    if (redis.status !== 'ready') return
    if (round.length === 0) round = [...topics.keys()]
    const share = round.splice(0, Math.ceil(Math.max(round.length, topics.size) / PINGS_PER_ROUND))
    await Promise.all(share.map(lookAfterOne)).catch(() => undefined)
  }

  async function lookAfterOne(id: string): Promise<void> {
    const topic = topics.get(id)
    if (!topic || topic.ended || topic.listeners.size === 0) return
    const seq = await watch([keys.job(id), keys.journal(id)], [node])
    if (seq !== -1 && seq <= topic.seq) return
    topic.seq = Math.max(topic.seq, seq)
    doubt([id])
  }

  function pass(channel: string, message: string | null): void {
    for (const hearer of hearers.get(channel) ?? []) hearer(message)
  }

  async function close(): Promise<void> {
    clearInterval(pulse)
    subscriber?.disconnect()
  }
}
