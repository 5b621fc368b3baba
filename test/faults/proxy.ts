import { once } from 'node:events'
import { connect, createServer, type AddressInfo, type Socket } from 'node:net'
import type { Test } from 'tap'
import { createCommandReader, type Command } from '../resp.ts'

/*
 * A gateway's way to Redis that can be cut at one exact command. To Redis, and to every other node, a gateway that is
 * cut off is one that was killed with SIGKILL between that command and the next; and it happens at the same place every
 * time, which no signal does.
 */

export interface Cut {
  /** Which of the commands that count is the last one, from 1. */
  readonly at: number
  /** Whether that one still reaches Redis, which then does it, and answers nobody. */
  readonly isForwarded: boolean
  /** Whether a command, given by its words, is one of those that are counted. */
  counts(words: readonly string[]): boolean
}

export interface Proxy {
  readonly port: number
  /** The commands that counted, in their order, without those after the cut. */
  readonly counted: readonly (readonly string[])[]
  readonly isCut: boolean
  /** Resolves when the cut was made and Redis has seen all that came before it. */
  readonly cut: Promise<void>
  /** Cuts now, wherever it is. */
  sever(): void
}

/** A proxy on 127.0.0.1 before the Redis at `redisPort`; it ends with the test. */
export async function startProxy(t: Pick<Test, 'teardown'>, redisPort: number, cut: Cut): Promise<Proxy> {
  const counted: string[][] = []
  const pairs = new Map<Socket, Socket>()
  let isCut = false
  let told: () => void = () => undefined
  const whenCut = new Promise<void>((resolve) => (told = resolve))
  const server = createServer({ noDelay: true }, (client) => {
    const redis = connect({ port: redisPort, host: '127.0.0.1', noDelay: true })
    pairs.set(client, redis)
    const commands = createCommandReader()
    client.on('data', (chunk) => pass(redis, commands(chunk)))
    redis.on('data', (chunk) => !isCut && client.write(chunk))
    client.on('close', () => redis.end())
    redis.on('close', () => {
      pairs.delete(client)
      client.destroy()
    })
    // Either side may be gone at any time: that is what this is for.
    client.on('error', () => undefined)
    redis.on('error', () => undefined)
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(sever)

  return {
    port: (server.address() as AddressInfo).port,
    counted,
    get isCut() {
      return isCut
    },
    cut: whenCut,
    sever,
  }

  /** Commands that came in one piece are told apart: those behind the cut were never sent. */
  function pass(redis: Socket, commands: readonly Command[]): void {
    for (const { words, bytes } of commands) {
      if (isCut) return
      const isCounted = cut.counts(words)
      if (isCounted) counted.push(words)
      const isLast = isCounted && counted.length === cut.at
      if (!isLast || cut.isForwarded) redis.write(bytes)
      if (isLast) sever()
    }
  }

  function sever(): void {
    if (isCut) return
    isCut = true
    server.close()
    const gone = [...pairs.values()].map((redis) => once(redis, 'close'))
    for (const [client, redis] of pairs) {
      client.destroy()
      // What was sent before is on its way, as it would be from a process that was killed.
      redis.end()
    }
    void Promise.all(gone).then(told)
  }
}
