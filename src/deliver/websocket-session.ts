import type { Duplex } from 'node:stream'
import type { FastifyBaseLogger } from 'fastify'
import type { WebSocket } from 'ws'
import type { Access, Asking } from '../access/access.ts'
import { demand, type Identity } from '../access/identity.ts'
import { nameOf, type Requests } from '../access/limit-requests.ts'
import type { Places } from '../access/places.ts'
import { endEarly, type CancelParts } from '../cancel.ts'
import type { Limited, Rate } from '../config-limits.ts'
import { Problem, toProblem } from '../errors.ts'
import { findJobOf } from '../find-job.ts'
import type { Follow, Subscription } from '../follow.ts'
import { isTerminal, type JobEvent } from '../messages.ts'
import type { Submit } from '../submit.ts'
import { encodeOnce } from './encode-once.ts'
import { createMessageRate } from './message-rate.ts'
import { parseMessage, type Message } from './websocket-message.ts'

/** The closes of docs/PROTOCOL.md "WebSocket", by their codes. The last three are safe to reconnect from. */
export const closes = {
  bad_message: 4400,
  unauthorized: 4401,
  forbidden: 4403,
  no_init: 4408,
  limit: 4429,
  going_away: 4503,
  too_slow: 4508,
  too_old: 4510,
} as const satisfies Record<string, number>

/** What may wait in a socket before live events are left for the journal to be read. */
const SEND_BUFFER_BYTES = 1_048_576
const DRAIN_MS = 10_000

export interface SessionParts extends CancelParts, Pick<Access, 'identify' | 'watch'> {
  readonly submit: Submit
  /** Told of each problem that is answered with. */
  readonly countProblem: (problem: Problem) => void
  readonly follow: Follow
  /** Null where they are not limited. */
  readonly requests: Requests | null
  readonly sockets: Places | null
  readonly messageRate: Rate
  readonly maxSubscriptions: number
  readonly countLimited: (limit: Limited) => void
}

export type Close = (reason: keyof typeof closes, message: string) => void

interface Peer {
  readonly socket: WebSocket
  /** What the WebSocket writes to. */
  readonly connection: Duplex
  /** What came with the handshake. */
  readonly asking: Asking
  readonly close: Close
  readonly heartbeatMs: number
  readonly log: FastifyBaseLogger
}

const frameOf = encodeOnce(() => '{"op":"event","event":', '}')

/** One socket's conversation. Messages are answered one after another, in the order they came. */
export function createSession(peer: Peer, parts: SessionParts) {
  const { socket, connection, asking, close, heartbeatMs, log } = peer
  const { requests, sockets, maxSubscriptions, countLimited } = parts
  const { address } = asking
  const subscriptions = new Map<string, Subscription>()
  /** Null before `init`. */
  let identity: Identity | null = null
  let unwatch: () => void = () => undefined
  let givePlaceBack: () => void = () => undefined
  const mayCome = createMessageRate(parts.messageRate)
  let drainTimer: NodeJS.Timeout | null = null
  let last: Promise<void> = Promise.resolve()

  return {
    isReady: () => identity !== null,

    receive(text: string): void {
      // Nothing more is read until this message is answered and its answer has room: a flood waits in the client's
      // own socket.
      socket.pause()
      const isTooMany = !mayCome()
      last = last
        .then(() => (isTooMany ? refuseMessage() : handle(text)))
        .finally(() => {
          if (hasRoom()) socket.resume()
        })
    },

    end(): void {
      for (const subscription of subscriptions.values()) subscription.stop()
      subscriptions.clear()
      unwatch()
      givePlaceBack()
      if (drainTimer) clearTimeout(drainTimer)
    },
  }

  async function handle(text: string): Promise<void> {
    if (socket.readyState !== socket.OPEN) return
    const received = parseMessage(text)
    if (!received) return close('bad_message', 'Expected a JSON object with an op of the protocol')
    if (received.op === 'init') {
      if (identity) return close('bad_message', 'Expected init once')
      return init(received.token)
    }
    if (!identity) return close('unauthorized', 'Expected init first')
    if (received.op === 'ping') return send({ op: 'pong' })
    try {
      await answer(received, identity)
    } catch (error) {
      send({ op: 'error', ref: received.ref, problem: problemOf(error) })
    }
  }

  function problemOf(error: unknown): Problem {
    const problem = toProblem(error)
    parts.countProblem(problem)
    if (problem.code === 'internal') log.error({ err: error }, 'a WebSocket message failed')
    return problem
  }

  async function init(token: string | undefined): Promise<void> {
    try {
      const who = await parts.identify({ ...asking, token })
      const place = await sockets?.take(nameOf(who, address))
      if (place === null) return refuse('sockets', 'Expected another socket to be closed first')
      if (place) givePlaceBack = place
      identity = who
    } catch (error) {
      const problem = problemOf(error)
      return close(closeOf(problem), problem.message)
    }
    if (socket.readyState !== socket.OPEN) return givePlaceBack()
    unwatch = parts.watch(identity, () =>
      close('unauthorized', 'The credentials were revoked or have expired'),
    )
    send({ op: 'ready', heartbeat_ms: heartbeatMs, max_subscriptions: maxSubscriptions })
  }

  async function answer(
    received: Exclude<Message, { op: 'init' | 'ping' }>,
    identity: Identity,
  ): Promise<void> {
    const { op, ref } = received
    if (op !== 'unsubscribe') await requests?.countMessage(identity, address)
    switch (op) {
      case 'submit': {
        demand(identity, ['jobs:write'])
        if (isFull()) return
        const { job, first } = await parts.submit.one(
          identity,
          received.job,
          received.idempotency_key ?? null,
          true,
        )
        sendText(`{"op":"accepted","ref":${JSON.stringify(ref)},"job":${job.text}}`)
        if (first) sendEvents([first])
        return subscribe(job.record.id, first?.seq ?? 0)
      }
      case 'subscribe': {
        if (identity.job === null) demand(identity, ['jobs:read'])
        const { record } = await findJobOf(parts.store, identity, received.job_id)
        const after = received.after ?? 0
        if (!subscriptions.has(record.id) && isFull()) return
        if (after > record.seq && !isTerminal(record.status)) {
          throw new Problem('bad_cursor', `Expected at most ${record.seq}, the job's last seq, got ${after}`)
        }
        send({ op: 'subscribed', ref, job_id: record.id, seq: record.seq })
        if (isTerminal(record.status) && after >= record.seq) return send({ op: 'end', job_id: record.id })
        return subscribe(record.id, after)
      }
      case 'unsubscribe':
        subscriptions.get(received.job_id)?.stop()
        subscriptions.delete(received.job_id)
        return send({ op: 'done', ref })
      case 'cancel': {
        demand(identity, ['jobs:cancel'])
        const { record } = await findJobOf(parts.store, identity, received.job_id)
        const ended = isTerminal(record.status)
          ? record
          : await endEarly(parts, record.id, 'canceled', { force: false })
        if (ended && isTerminal(ended.status) && ended.status !== 'canceled') {
          throw new Problem('already_finished', `The job is ${ended.status}`)
        }
        return send({ op: 'done', ref })
      }
    }
  }

  function isFull(): boolean {
    if (subscriptions.size < maxSubscriptions) return false
    refuse('subscriptions', `Expected at most ${maxSubscriptions} subscriptions`)
    return true
  }

  function refuseMessage(): void {
    const { count, perMs } = parts.messageRate
    if (socket.readyState === socket.OPEN)
      refuse('messages', `Expected at most ${count} messages in ${perMs / 1_000} s`)
  }

  function refuse(limit: Limited, message: string): void {
    countLimited(limit)
    close('limit', message)
  }

  /** Subscribing again moves the cursor. */
  function subscribe(id: string, after: number): void {
    if (socket.readyState !== socket.OPEN) return
    subscriptions.get(id)?.stop()
    const subscription = parts.follow(id, after, {
      tenant: identity?.tenant,
      write(events) {
        sendEvents(events)
        return hasRoom()
      },
      hasRoom,
      end() {
        if (subscriptions.get(id) === subscription) subscriptions.delete(id)
        send({ op: 'end', job_id: id })
      },
    })
    subscriptions.set(id, subscription)
  }

  /** Whether the socket may be given more. If not, the client has some time to read what waits for it. */
  function hasRoom(): boolean {
    if (socket.bufferedAmount < SEND_BUFFER_BYTES) return true
    drainTimer ??= setTimeout(() => close('too_slow', 'reconnect to go on'), DRAIN_MS)
    return false
  }

  /** What was held back goes on once the socket has let go of half of what waited in it. */
  function onSent(): void {
    if (!drainTimer || socket.bufferedAmount > SEND_BUFFER_BYTES / 2) return
    clearTimeout(drainTimer)
    drainTimer = null
    socket.resume()
    for (const subscription of subscriptions.values()) subscription.resume()
  }

  function sendEvents(events: readonly JobEvent[]): void {
    if (socket.readyState !== socket.OPEN) return
    gather()
    for (const event of events) socket.send(frameOf(event), { binary: false }, onSent)
  }

  /** All frames of one turn go out together. */
  function gather(): void {
    if (connection.writableCorked > 0) return
    connection.cork()
    process.nextTick(() => connection.uncork())
  }

  function send(frame: object): void {
    sendText(JSON.stringify(frame))
  }

  function sendText(text: string): void {
    if (socket.readyState !== socket.OPEN) return
    gather()
    socket.send(text, onSent)
  }
}

/** How a socket is closed on whom this problem keeps out. */
function closeOf({ status }: Problem): keyof typeof closes {
  if (status >= 500) return 'going_away'
  if (status === 429) return 'limit'
  return status === 403 ? 'forbidden' : 'unauthorized'
}
