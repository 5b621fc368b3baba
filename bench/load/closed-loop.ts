import { setTimeout as delay } from 'node:timers/promises'
import { startMeter, type Watched } from './cpu.ts'
import { openConnection, type Connection } from './http.ts'
import { latencies, type Report } from './report.ts'

export interface LoopOptions {
  /** Gateways, of which each connection takes one. */
  readonly urls: readonly string[]
  readonly watched: Watched
  readonly atOnce: number
  /** Requests before anything is measured. */
  readonly warmUp: number
  readonly measureMs: number
}

/** One request with its answer; throws unless it is the one expected. `n` is different each time. */
export type Exchange = (connection: Connection, n: number) => Promise<void>

const WARM_UP_LIMIT_MS = 60_000

/**
 * So many at a time, each the next as soon as it has its answer. What is measured is an interval in the middle: the
 * connections are busy before it and after it.
 */
export async function closedLoop(options: LoopOptions, exchange: Exchange): Promise<Report> {
  const { urls, watched, atOnce, warmUp, measureMs } = options
  const connections = Array.from({ length: atOnce }, (_, n) => openConnection(urls[n % urls.length] ?? ''))
  const over = new AbortController()
  let [begun, ended] = [0, 0]
  let took: number[] | null = null
  let warm: () => void = () => undefined
  const isWarm = new Promise<void>((resolve) => (warm = resolve))
  const loops = Promise.all(connections.map(run))

  // The loops only end before the interval does if one of them fails.
  await Promise.race([isWarm, loops, limit()])
  const meter = startMeter(watched)
  took = []
  await Promise.race([delay(measureMs), loops])
  const { cpu, seconds } = meter.read()
  const measured = took
  over.abort()
  await loops
  await Promise.all(connections.map((connection) => connection.close()))
  return { count: measured.length, seconds, cpu, values: { ...latencies(measured) } }

  async function run(connection: Connection): Promise<void> {
    while (!over.signal.aborted) {
      const since = performance.now()
      await exchange(connection, begun++)
      if (!over.signal.aborted) took?.push(performance.now() - since)
      if (++ended === warmUp) warm()
    }
  }

  async function limit(): Promise<never> {
    await delay(WARM_UP_LIMIT_MS, undefined, { ref: false })
    throw new Error(`Expected ${warmUp} requests in ${WARM_UP_LIMIT_MS} ms, got ${ended}`)
  }
}
