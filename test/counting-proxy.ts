import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { readdirSync, readFileSync } from 'node:fs'
import { connect, createServer, type AddressInfo, type Socket } from 'node:net'
import { setImmediate as turn } from 'node:timers/promises'
import type { Test } from 'tap'
import { createCommandReader, createReplyReader } from './resp.ts'

/*
 * A gateway's way to Redis on which its commands are counted. What belongs to a job is told by the job's id, in the
 * command or in its answer: what a gateway does all the time for itself has none, and needs no timing to be left out.
 *
 * Answers are held back until the gateway, which runs in this same process, has nothing more to send. So commands
 * travel together exactly if none of them needed the answer of another, however fast or slow the machine is.
 */

export interface CountingProxy {
  /** `redis://127.0.0.1:<port>` */
  readonly url: string
  /** What was sent for one of these jobs. */
  countOf(ids: readonly string[]): Count
  /** Resolves when there is nothing under way, but for reads that wait for something to happen. */
  settled(): Promise<void>
  /** Keeps the answers of reads that wait from now on, until the function that this returns is called. */
  holdReads(): () => void
}

export interface Count {
  /** By their names, scripts by those of their files; what a script does inside of Redis is not counted. */
  readonly commands: readonly string[]
  /** How often the gateway waited for Redis, on any connection. */
  readonly roundTrips: number
}

/** Turns of the event loop with nothing to do, after which nothing more comes. */
const QUIET_TURNS = 30

interface Sent {
  readonly name: string
  readonly words: readonly string[]
  /** What travels together has the same. */
  readonly trip: number
  answer: Buffer
}

interface Line {
  readonly client: Socket
  /** Not answered yet, the oldest first. */
  readonly open: Sent[]
  held: Buffer[]
  trip: number | null
}

/** A proxy on 127.0.0.1 before the Redis at `redisPort`; it ends with the test. */
export async function startCountingProxy(
  t: Pick<Test, 'teardown'>,
  redisPort: number,
): Promise<CountingProxy> {
  const sent: Sent[] = []
  const lines = new Set<Line>()
  const nameOf = createNames()
  let [trips, moves, isHolding, isWatching] = [0, 0, false, false]
  const sockets = new Set<Socket>()
  const server = createServer({ noDelay: true }, accept).listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => {
    server.close()
    for (const socket of sockets) socket.destroy()
  })

  return {
    url: `redis://127.0.0.1:${(server.address() as AddressInfo).port}`,

    countOf(ids) {
      const found = sent.filter(({ words, answer }) => {
        const text = `${words.join(' ')} ${answer.toString('latin1')}`
        return ids.some((id) => text.includes(id))
      })
      return {
        commands: found.map(({ name }) => name).toSorted(),
        roundTrips: new Set(found.map(({ trip }) => trip)).size,
      }
    },

    async settled() {
      const all = () => [...lines]
      do await quiet()
      while (
        all().some((line) => isAsking(line) || isAnswered(line)) ||
        // Whoever reads on may take a breath in between.
        !all().some(({ open, held }) => open.some(isWaiting) || held.length > 0)
      )
    },

    holdReads() {
      isHolding = true
      return () => {
        isHolding = false
        void watch()
      }
    },
  }

  function accept(client: Socket): void {
    const redis = connect({ port: redisPort, host: '127.0.0.1', noDelay: true })
    const line: Line = { client, open: [], held: [], trip: null }
    lines.add(line)
    const [commands, replies] = [createCommandReader(), createReplyReader()]
    client.on('data', (chunk) => {
      moves++
      for (const { words } of commands(chunk)) {
        line.trip ??= ++trips
        const each = { name: nameOf(words), words, trip: line.trip, answer: Buffer.alloc(0) }
        sent.push(each)
        line.open.push(each)
      }
      redis.write(chunk)
    })
    redis.on('data', (chunk) => {
      moves++
      for (const { bytes, isMessage } of replies(chunk)) {
        const asked = isMessage ? undefined : line.open.shift()
        if (asked) asked.answer = bytes
        line.held.push(bytes)
      }
      void watch()
    })
    for (const [socket, other] of [
      [client, redis],
      [redis, client],
    ] as const) {
      sockets.add(socket)
      // Either side may hang up at any time.
      socket.on('error', () => undefined)
      socket.on('close', () => {
        sockets.delete(socket)
        lines.delete(line)
        other.destroy()
      })
    }
  }

  /** Lets the answers go once all have come and the gateway is silent. */
  async function watch(): Promise<void> {
    if (isWatching) return
    isWatching = true
    while ([...lines].some(isAnswered)) {
      await quiet()
      // Also those of other connections: what comes of one change comes at one time.
      if (![...lines].some(isAsking)) for (const line of [...lines].filter(isAnswered)) release(line)
    }
    isWatching = false
  }

  /** Resolves when nothing has come from either side for some time. */
  async function quiet(): Promise<void> {
    for (let [turns, seen] = [0, moves]; turns < QUIET_TURNS; turns++) {
      await turn()
      if (moves !== seen) [turns, seen] = [0, moves]
    }
  }

  function isAnswered({ held }: Line): boolean {
    return held.length > 0 && !(isHolding && isRead(held))
  }

  function isRead(held: readonly Buffer[]): boolean {
    const last = sent.findLast(({ answer }) => answer === held.at(-1))
    return last !== undefined && isWaiting(last)
  }

  function release(line: Line): void {
    line.client.write(Buffer.concat(line.held))
    line.held = []
    line.trip = null
    moves++
  }
}

/** Whether there is an answer to come, and not only one that waits for something to happen. */
function isAsking({ open }: Line): boolean {
  return !open.every(isWaiting)
}

function isWaiting({ words }: Sent): boolean {
  return words.some((word) => word.toUpperCase() === 'BLOCK')
}

/** Scripts are sent whole once, and by their digest from then on: all commands must be shown in their order. */
function createNames(): (words: readonly string[]) => string {
  const folder = new URL('../src/store/redis/', import.meta.url)
  const files = readdirSync(folder).filter((file) => file.endsWith('.lua'))
  const scripts = files.map((file) => ({ file, text: readFileSync(new URL(file, folder), 'utf8') }))
  const names = new Map<string, string>()

  return ([word = '', first = '', second = '']) => {
    const command = word.toLowerCase()
    if (command === 'eval') return learn(first)
    if (command === 'script') learn(second)
    return command === 'evalsha' ? (names.get(first) ?? 'script') : command
  }

  function learn(text: string): string {
    const name = scripts.find((script) => text.endsWith(script.text))?.file ?? 'script'
    names.set(createHash('sha1').update(text).digest('hex'), name)
    return name
  }
}
