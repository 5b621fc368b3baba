import { once } from 'node:events'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { text } from 'node:stream/consumers'
import { setTimeout as delay } from 'node:timers/promises'
import { takeTurns } from '../../src/take-turns.ts'
import { post } from './post.ts'

/*
 * One of the three services, as a process: `node --import tsx bench/story/service.ts '{"workMs":50,"slots":20}'`.
 * It has so many slots, as a pool of threads or of connections to a database has; who comes when all are taken waits in
 * line, and is left out if it has hung up before its turn. It does its work once for an idempotency key. Whoever sends
 * `x-alone` wants something of this service alone.
 */

export interface ServiceOptions {
  /** A free one without it. */
  readonly port?: number
  readonly workMs: number
  readonly slots: number
  /** The next service of a synchronous chain. It is called with the slot kept, and its answer awaited so long. */
  readonly next?: { readonly url: string; readonly timeoutMs: number }
}

/** GET /: what it has done so far. */
export interface ServiceFigures {
  /** Orders that it has done its work for. */
  readonly done: number
  /** Calls that were in it at a time at most, those in line included. */
  readonly most: number
}

const { port = 0, workMs, slots, next } = JSON.parse(process.argv[2] ?? '{}') as ServiceOptions
const inTurn = takeTurns(slots)
const known = new Map<string, Promise<void>>()
let [done, inside, most] = [0, 0, 0]

const server = createServer((request, response) => {
  serve(request, response).catch(() => response.destroy())
})
server.listen(port, '127.0.0.1')
await once(server, 'listening')
console.log(`listens on http://127.0.0.1:${(server.address() as AddressInfo).port}`)

async function serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
  if (request.method === 'GET') return void response.end(JSON.stringify({ done, most }))
  inside += 1
  most = Math.max(most, inside)
  try {
    const order = await text(request)
    const { status, body } = await inTurn(() => answer(request, response, order))
    response.writeHead(status, { 'content-type': 'application/json' }).end(body)
  } finally {
    inside -= 1
  }
}

async function answer(
  { headers }: IncomingMessage,
  response: ServerResponse,
  order: string,
): Promise<{ status: number; body: string }> {
  // Node.js sees an end of the connection that a blocked thread would not: the chain is done no wrong.
  if (response.destroyed) return { status: 499, body: 'null' }
  const key = String(headers['idempotency-key'] ?? '')
  const isOrder = headers['x-alone'] === undefined
  const working = known.get(key) ?? work(isOrder)
  if (key !== '') known.set(key, working)
  await working
  if (!next || !isOrder) return { status: 200, body: order }
  const { status } = await post(next.url, order, { timeoutMs: next.timeoutMs })
  if (status === 200) return { status, body: order }
  return { status: status === null ? 504 : 502, body: 'null' }
}

async function work(isOrder: boolean): Promise<void> {
  await delay(workMs)
  if (isOrder) done += 1
}
