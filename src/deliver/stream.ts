import type { Socket } from 'node:net'
import type { FastifyReply } from 'fastify'
import type { Watch } from '../access/access.ts'
import type { Follow, Subscription } from '../follow.ts'
import type { JobEvent } from '../messages.ts'
import { onceOver } from './once-over.ts'
import { socketFor } from './write-through.ts'

/** How a mode writes to an HTTP stream. */
export interface StreamFormat {
  readonly headers: Readonly<Record<string, string>>
  /** Sent before the first event. */
  readonly preamble: string
  /** One event, complete with its terminator. Encoded once per process, however many clients get it. */
  readonly encode: (event: JobEvent) => Buffer
  /** A batch of events as one chunk of the body; null where it is too large. Encoded once per process as well. */
  readonly chunk: (events: readonly JobEvent[]) => Buffer | null
  /** Sent after a silence. */
  readonly heartbeat: string
  /** Sent last when the stream ends before the job does: its client is to come back, and not with all the others. */
  readonly farewell: () => string
}

export interface StreamLimits {
  readonly heartbeatMs: number
  /** How long a client may leave its socket full, or its stream's end unread, before it is cut off. */
  readonly drainMs: number
  /** When a stream is ended so that the client reconnects, ± 20 %. */
  readonly maxAgeMs: number
}

export const streamLimits: StreamLimits = { heartbeatMs: 15_000, drainMs: 10_000, maxAgeMs: 600_000 }

/** Bytes that are written at a time: a client that takes so much within the drain limit is slow, but not dead. */
const SLICE = 65_536

/**
 * The streams that are open, so that a closing gateway can end them: their clients reconnect elsewhere. One whose identity
 * is no more is ended too.
 */
export interface Streams {
  /** `known`: events after the cursor that are at hand already. */
  open(
    reply: FastifyReply,
    format: StreamFormat,
    id: string,
    after: number,
    known?: readonly JobEvent[],
  ): void
  endAll(): void
}

/**
 * Streams a job's journal as the answer to a request, on the hijacked reply. A page of the journal in the socket's
 * buffer is all that a slow client costs: while it is full nothing is written, and when it drains the journal is read
 * on (invariant 8).
 */
export function createStreams(follow: Follow, watch: Watch, limits: StreamLimits = streamLimits): Streams {
  const endings = new Set<() => void>()
  let isEnding = false

  return {
    open(reply, format, id, after, known = []) {
      reply.hijack()
      const response = reply.raw
      const { identity } = reply.request
      // Who hung up meanwhile does so no second time: nothing would ever stop following.
      if (response.destroyed || reply.request.raw.socket.destroyed) return
      // Its request was still being answered when the others were ended, and nobody looks at its connection any more.
      if (isEnding) reply.header('connection', 'close')
      response.writeHead(200, { ...(reply.getHeaders() as Record<string, string>), ...format.headers })
      // The head for itself, so that nothing is written before it, and so that V8 keeps it as one string instead of its
      // sixty parts. It goes out with what is known already.
      response.cork()
      process.nextTick(() => response.uncork())
      response.flushHeaders()
      if (format.preamble !== '') response.write(format.preamble)
      const stop = attach(
        reply,
        format,
        known,
        (subscriber) => follow(id, known.at(-1)?.seq ?? after, { ...subscriber, tenant: identity.tenant }),
        limits,
        () => {
          endings.delete(stop)
          unwatch()
        },
      )
      endings.add(stop)
      const unwatch = watch(identity, stop)
      if (isEnding) stop()
    },
    endAll() {
      isEnding = true
      for (const end of endings) end()
    },
  }
}

/** @returns ends the stream in an orderly way */
function attach(
  reply: FastifyReply,
  { encode, chunk, heartbeat, farewell }: StreamFormat,
  known: readonly JobEvent[],
  subscribe: (subscriber: Parameters<Follow>[2]) => Subscription,
  limits: StreamLimits,
  onClosed: () => void,
): () => void {
  const response = reply.raw
  let drainTimer: NodeJS.Timeout | null = null
  /** What the socket has not been given yet, and what is to be said after it, once nothing more will come. */
  const pending: Buffer[] = known.map(encode)
  let lastWords: string | null = null
  let connection: Socket | null = null

  const subscription = subscribe({
    write(events) {
      pulse.refresh()
      const isPassed = passOn(events)
      if (isPassed !== null) return isPassed
      for (const event of events) pending.push(encode(event))
      return pump()
    },
    end: () => end(),
  })
  const pulse = setTimeout(() => {
    if (!drainTimer) response.write(heartbeat)
    pulse.refresh()
  }, limits.heartbeatMs)
  const age = setTimeout(endEarly, limits.maxAgeMs * (0.8 + 0.4 * Math.random()))

  response.on('drain', onDrain)
  // Also after an error: the client hung up, which never cancels the job.
  response.on('error', () => undefined)
  onceOver(reply, () => {
    connection?.off('drain', onDrain)
    subscription.stop()
    clearTimeout(pulse)
    clearTimeout(age)
    if (drainTimer) clearTimeout(drainTimer)
    onClosed()
  })
  pump()
  return endEarly

  function endEarly(): void {
    end(farewell())
  }

  function onDrain(): void {
    if (!drainTimer) return
    clearTimeout(drainTimer)
    drainTimer = null
    if (!pump()) return
    if (lastWords === null) subscription.resume()
    else finish(lastWords)
  }

  /**
   * Gives the socket what a crowd of clients is given alike. The last event goes with the end of the stream instead.
   *
   * @returns as `pump`; null if it cannot
   */
  function passOn(events: readonly JobEvent[]): boolean | null {
    const socket = pending.length === 0 && !events.at(-1)?.terminal ? socketFor(response) : null
    const bytes = socket && chunk(events)
    if (!bytes) return null
    // The response says nothing of what was written past it.
    if (connection === null) socket.on('drain', onDrain)
    connection = socket
    const hasRoom = socket.write(bytes)
    if (!hasRoom) limitDraining()
    return hasRoom
  }

  /**
   * A slice at a time, and the next when the socket has room again: a client that takes an event of many megabytes
   * slowly is not taken for dead.
   *
   * @returns whether all is written and there is room for more
   */
  function pump(): boolean {
    let hasRoom = true
    let left = SLICE
    // All that is written in one turn goes out together: Node.js corks the socket for it.
    for (let next = pending[0]; next && left > 0; next = pending[0]) {
      const slice = next.subarray(0, left)
      if (slice.length === next.length) pending.shift()
      else pending[0] = next.subarray(left)
      left -= slice.length
      hasRoom = response.write(slice)
    }
    if (!hasRoom) limitDraining()
    return hasRoom
  }

  function end(words = ''): void {
    subscription.stop()
    lastWords = words
    if (pending.length === 0) finish(words)
  }

  /** Nothing else bounds the wait for a peer that takes no more: it has no heartbeat and no age from here on. */
  function finish(words: string): void {
    response.end(words)
    limitDraining()
  }

  function limitDraining(): void {
    drainTimer ??= setTimeout(() => response.destroy(), limits.drainMs)
  }
}
