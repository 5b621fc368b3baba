import type { FastifyBaseLogger } from 'fastify'
import { snapshotText } from './job.ts'
import { toEvent, type JobEvent } from './messages.ts'
import type { Followed, JournalPage, Store } from './store/store.ts'
import { takeTurns } from './take-turns.ts'

/** Events that one read of the journal brings. */
const PAGE = 200
const RETRY_MS = 1_000
/**
 * Reads under way at a time. A page may be large, and all of them come over the connection that submissions share: a
 * thousand clients that come back at once take turns (invariant 8).
 */
const READS = 8

/** One client's end of a job's journal. It gets every event after its cursor once, in order (invariants 2–4). */
export interface Subscriber {
  /** Whose it is, for the log. */
  readonly tenant?: string | undefined
  /** Takes the next events. False: it is full, and calls {@link Subscription.resume} when it has room again. */
  write(events: readonly JobEvent[]): boolean
  /** For those that share a socket: whether it has room. Asked before anything is read for this one. */
  hasRoom?(): boolean
  /** The terminal event was written, or there never was such a job: nothing follows. */
  end(): void
}

export interface Subscription {
  /** There is room again: reads on from the journal, wherever the job is by then. */
  resume(): void
  stop(): void
}

/** Replays a job's journal from a cursor and goes on live. The tenant has been checked by whoever calls. */
export type Follow = (id: string, after: number, subscriber: Subscriber) => Subscription

interface Topic {
  readonly followers: Set<Follower>
  /** Resolves when the live channel is open; null before, and again when that failed. */
  opened: Promise<Followed> | null
}

interface Follower {
  readonly subscriber: Subscriber
  /** The last seq written: all that is known of what the client has. */
  seq: number
  /** Whether live events may be written as they come. Otherwise they are left for the journal to be read. */
  live: boolean
  reading: boolean
  full: boolean
  stopped: boolean
}

/**
 * One live subscription per job and process, however many clients follow it. A client that is full gets nothing until
 * it has room, and then what it missed from the journal: its cost is its socket's buffer (invariant 8).
 */
export function createFollow({
  store,
  log,
}: {
  readonly store: Store
  readonly log: FastifyBaseLogger
}): Follow {
  const topics = new Map<string, Topic>()
  const inTurn = takeTurns(READS)

  return (id, after, subscriber) => {
    const follower: Follower = {
      subscriber,
      seq: after,
      live: false,
      reading: false,
      full: false,
      stopped: false,
    }
    const topic = join(id, follower)
    void replay(id, topic, follower)
    return {
      resume() {
        if (!follower.full) return
        follower.full = false
        void replay(id, topic, follower)
      },
      stop: () => leave(id, topic, follower),
    }
  }

  function join(id: string, follower: Follower): Topic {
    const known = topics.get(id)
    if (known) {
      known.followers.add(follower)
      return known
    }
    const topic: Topic = { followers: new Set([follower]), opened: null }
    topics.set(id, topic)
    return topic
  }

  function open(id: string, topic: Topic): Promise<Followed> {
    const opened = store.follow(id, {
      events(events) {
        for (const each of topic.followers) take(id, topic, each, events)
      },
      interrupted() {
        for (const each of topic.followers) void replay(id, topic, each)
      },
    })
    topic.opened = opened
    opened.catch(() => (topic.opened = null))
    return opened
  }

  /** Opens the channel; a follower that has all there was until then goes live without reading. */
  async function openFor(id: string, topic: Topic, follower: Follower): Promise<void> {
    // Cleared by any event that comes meanwhile.
    follower.live = true
    const { from } = await open(id, topic)
    if (from === null || follower.seq < from) follower.live = false
  }

  function leave(id: string, topic: Topic, follower: Follower): void {
    if (follower.stopped) return
    follower.stopped = true
    topic.followers.delete(follower)
    if (topic.followers.size > 0) return
    if (topics.get(id) === topic) topics.delete(id)
    topic.opened?.then(
      ({ unfollow }) => unfollow(),
      // It never opened, so there is nothing to close.
      () => undefined,
    )
  }

  /** Live events: written if they are the next ones; a hole means that the journal is to be read. */
  function take(id: string, topic: Topic, follower: Follower, events: readonly JobEvent[]): void {
    const first = events[0]
    if (!first || follower.stopped || follower.full) return
    if (!follower.live || first.seq > follower.seq + 1) {
      void replay(id, topic, follower)
      return
    }
    write(id, topic, follower, events)
  }

  function write(id: string, topic: Topic, follower: Follower, events: readonly JobEvent[]): void {
    const fresh =
      events[0] && events[0].seq > follower.seq ? events : events.filter(({ seq }) => seq > follower.seq)
    const last = fresh.at(-1)
    if (!last || isHeldBack(follower)) return
    follower.seq = last.seq
    const hasRoom = follower.subscriber.write(fresh)
    if (last.terminal) {
      leave(id, topic, follower)
      follower.subscriber.end()
    } else if (!hasRoom) {
      holdBack(follower)
    }
  }

  function isHeldBack(follower: Follower): boolean {
    if (!follower.full && follower.subscriber.hasRoom?.() === false) holdBack(follower)
    return follower.full
  }

  function holdBack(follower: Follower): void {
    follower.full = true
    follower.live = false
  }

  /** Reads on from the journal until there is nothing newer, then goes live. Runs once at a time per follower. */
  async function replay(id: string, topic: Topic, follower: Follower): Promise<void> {
    follower.live = false
    if (follower.reading) return
    follower.reading = true
    try {
      // The channel first: whatever is applied after the read will be heard.
      if (topic.opened) await topic.opened
      else await openFor(id, topic, follower)
      while (!follower.stopped && !isHeldBack(follower) && !follower.live) {
        // Cleared by any live event that comes while we read: then there is something newer to read.
        follower.live = true
        const page = await inTurn(() => readFor(id, follower))
        if (follower.stopped) return
        if (page === 'held back') continue
        if (!page) {
          leave(id, topic, follower)
          return follower.subscriber.end()
        }
        const events = await withSnapshot(store, id, follower.seq, page)
        if (page.more) follower.live = false
        if (!follower.stopped) write(id, topic, follower, events)
      }
    } catch (err) {
      follower.live = false
      log.warn({ err, job_id: id, tenant: follower.subscriber.tenant }, 'following is interrupted')
      retryLater(id, topic, follower)
    } finally {
      follower.reading = false
    }
  }

  /** Much may have happened to a follower until it was its turn. */
  async function readFor(id: string, follower: Follower): Promise<JournalPage | 'held back' | null> {
    if (follower.stopped || isHeldBack(follower)) return 'held back'
    return store.read(id, follower.seq, PAGE)
  }

  function retryLater(id: string, topic: Topic, follower: Follower): void {
    setTimeout(() => {
      if (!follower.stopped) void replay(id, topic, follower)
    }, RETRY_MS).unref()
  }
}

/** Where the journal was trimmed behind the cursor, the job itself comes first (docs/PROTOCOL.md "The event"). */
export async function withSnapshot(
  store: Store,
  id: string,
  after: number,
  { events, trimmed }: JournalPage,
): Promise<readonly JobEvent[]> {
  if (after >= trimmed) return events
  const [stored] = await store.load([id])
  if (!stored) return events
  const view = await store.get(stored.record.tenant, id)
  if (!view) return events
  return [toEvent(snapshotText(view.record, view.text, trimmed)), ...events]
}

/** Waits until the job's journal goes beyond `after` and `isEnough`, or the time is over, or the client hangs up. */
export function waitFor(
  follow: Follow,
  id: string,
  after: number,
  isEnough: (event: JobEvent) => boolean,
  {
    waitMs,
    signal,
    tenant,
  }: { readonly waitMs: number; readonly signal: AbortSignal; readonly tenant?: string },
): Promise<void> {
  return new Promise((resolve) => {
    const finish = () => {
      clearTimeout(timer)
      signal.removeEventListener('abort', finish)
      subscription.stop()
      resolve()
    }
    const timer = setTimeout(finish, waitMs)
    const subscription = follow(id, after, {
      tenant,
      write(events) {
        if (events.some(isEnough)) finish()
        return true
      },
      end: finish,
    })
    if (signal.aborted) finish()
    else signal.addEventListener('abort', finish, { once: true })
  })
}
