import { once } from 'node:events'
import { createServer, type RequestListener } from 'node:http'
import type { AddressInfo } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'
import type { Redis } from 'ioredis'
import { createConnect } from '../src/store/redis/connect.ts'
import { createRedisStore } from '../src/store/redis/redis-store.ts'
import type { Store } from '../src/store/store.ts'
import { startGatewayProcess } from '../test/e2e/processes.ts'
import { startRedis } from '../test/helper.ts'
import { ended, handedOver } from '../test/store-contract/deliver.ts'

/*
 * One receiver's trouble is its own: `npm run bench:webhooks`. How long an event takes from its hand-over to a healthy
 * receiver, (A) alone and (B) while 10,000 deliveries wait for a receiver that takes connections and never answers.
 * A, B, B, A, A, B: each has a Redis and a gateway process of its own, and is set up in the same way.
 */
const PHASES = ['A', 'B', 'B', 'A', 'A', 'B'] as const
const WARM_UP = 200
const MEASURED = 600
const PACE_MS = 40
const QUEUED = 10_000
const SET_UP_AT_ONCE = 50
/** QUARTET_CALLBACK_CONCURRENCY's default. */
const CAP = 50
const MOST_RATIO = 1.2

interface Figures {
  readonly p50: number
  readonly p99: number
}

interface Scope {
  readonly teardown: (close: () => unknown) => void
  readonly comment: (...lines: unknown[]) => void
  readonly passing: () => boolean
}

process.exitCode = (await main()) ? 0 : 1

async function main(): Promise<boolean> {
  const measured = { A: [] as Figures[], B: [] as Figures[] }
  let isBounded = true
  for (const phase of PHASES) {
    const closers: (() => unknown)[] = []
    try {
      const t = {
        teardown: (close: () => unknown) => void closers.unshift(close),
        comment: console.error,
        passing: () => true,
      }
      const { figures, most } = await measure(t, phase === 'B')
      measured[phase].push(figures)
      isBounded &&= most <= CAP
    } finally {
      for (const close of closers) await close()
    }
  }
  const ratios = (['p50', 'p99'] as const).map((name) => {
    const [alone, beside] = [spread(measured.A, name), spread(measured.B, name)]
    const ratio = beside.median / alone.median
    console.log(`${name}: alone ${alone.text}, beside ${beside.text}: ${ratio.toFixed(2)} times`)
    return ratio
  })
  console.log(`p99 at most ${MOST_RATIO} times as long wanted, and at most ${CAP} tries at a time`)
  return isBounded && (ratios[1] ?? Infinity) <= MOST_RATIO
}

async function measure(t: Scope, isBeside: boolean): Promise<{ figures: Figures; most: number }> {
  const redis = await startRedis(t)
  const connect = createConnect(redis.url, (error) => console.error(error))
  const client = connect('command')
  await once(client, 'ready')
  const store = createRedisStore(client, connect)
  t.teardown(async () => {
    await store.close()
    client.disconnect()
  })
  const arrivals = new Map<string, (at: number) => void>()
  const healthy = await startReceiver(t, (request, response) => {
    const at = performance.now()
    arrivals.get(String(request.headers['webhook-id']).split('.')[0] ?? '')?.(at)
    request.resume().on('end', () => response.writeHead(204).end())
  })
  const hanging = await startReceiver(t, (request) => void request.resume())
  await startGatewayProcess(t, { redis, roles: 'http,collect,callbacks' })

  const deliver = async () => {
    const { id } = await ended(store, healthy.origin)
    const arrival = new Promise<number>((resolve) => arrivals.set(id, resolve))
    const since = performance.now()
    await store.deliveries.handOver(id)
    return (await arrival) - since
  }
  for (let n = 0; n < WARM_UP; n++) await deliver()
  const waiting = isBeside ? await fill(store, redis.connect(), hanging.origin) : 0
  const samples: Promise<number>[] = []
  for (let n = 0; n < MEASURED; n++) {
    samples.push(deliver())
    await delay(PACE_MS)
  }
  const sorted = (await Promise.all(samples)).toSorted((one, other) => one - other)
  const figures = { p50: at(sorted, 0.5), p99: at(sorted, 0.99) }
  const circuits = await store.deliveries.openCircuits(10)
  console.log(
    `${isBeside ? 'beside' : 'alone '}: p50 ${figures.p50.toFixed(2)} ms, p99 ${figures.p99.toFixed(2)} ms, ` +
      `longest ${at(sorted, 1).toFixed(2)} ms of ${MEASURED}; ${waiting} waited for the hanging receiver, which saw ` +
      `${hanging.tries()} tries, ${hanging.most()} at a time, on ${hanging.connections()} connections; circuit ${circuits.length > 0 ? 'open' : 'closed'}`,
  )
  return { figures, most: hanging.most() }
}

/** Queues deliveries for an origin and waits until all of them are seen there. @returns how many */
async function fill(store: Store, client: Redis, origin: string): Promise<number> {
  let begun = 0
  const fillers = Array.from({ length: SET_UP_AT_ONCE }, async () => {
    while (begun++ < QUEUED) await handedOver(store, origin)
  })
  await Promise.all(fillers)
  const [due, claims] = await Promise.all([
    client.zcard(`{quartet}:callbacks:due:${origin}`),
    client.zcard(`{quartet}:callbacks:claims:${origin}`),
  ])
  if (due + claims < QUEUED)
    throw new Error(`Expected ${QUEUED} deliveries to wait, got ${due} and ${claims}`)
  return due + claims
}

/** A receiver at an origin of its own, which counts its connections. */
async function startReceiver(t: Scope, listener: RequestListener) {
  let [connections, tries, open, most] = [0, 0, 0, 0]
  const server = createServer(listener)
  server.on('connection', () => connections++)
  server.on('request', (_request, response) => {
    tries++
    open++
    response.on('close', () => open--)
    // The end of the one before may be heard of after the beginning of the next.
    setTimeout(() => (most = Math.max(most, open)), 10)
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => {
    server.close()
    server.closeAllConnections()
  })
  const origin = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  return { origin, connections: () => connections, tries: () => tries, most: () => most }
}

function at(sorted: readonly number[], share: number): number {
  return sorted[Math.max(0, Math.ceil(sorted.length * share) - 1)] ?? NaN
}

/** The middle of some runs, and how far they are apart. */
function spread(runs: readonly Figures[], name: keyof Figures): { median: number; text: string } {
  const sorted = runs.map((run) => run[name]).toSorted((one, other) => one - other)
  const median = ((sorted[(sorted.length - 1) >> 1] ?? NaN) + (sorted[sorted.length >> 1] ?? NaN)) / 2
  const ms = (value = NaN) => value.toFixed(2)
  return { median, text: `${ms(median)} ms (${ms(sorted[0])}–${ms(sorted.at(-1))})` }
}
