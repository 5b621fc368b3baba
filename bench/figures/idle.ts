import { setTimeout as delay } from 'node:timers/promises'
import { submit } from '../../test/e2e/processes.ts'
import { memoryOf, reportsMemory, type Memory } from '../../test/faults/process-figures.ts'
import { spawnProcess, type TestProcess } from '../../test/helper.ts'
import { atMostIs, type Bench, type Figure, type Sample } from '../figure.ts'
import type { Scope } from '../scope.ts'
import { sideNames, startSide, type SideName } from '../sides.ts'

const KB = 1_024
const MOST = atMostIs(12, '12 KB')
/** Of each kind, before anything is measured: the first ones bring a heap that has room for more. */
const WARM_UP = 500
/**
 * The young generation at its full size from the start: V8 makes it smaller in a quiet time and larger in a busy one, by
 * more than what a thousand connections take.
 */
const NODE_ARGS = ['--min-semi-space-size=16', '--max-semi-space-size=16']
const RELEASE_MS = 1_000

/** What a connection costs on which nothing happens. All of them follow one job. */
export const idle: Figure = {
  name: 'idle',
  title: 'idle connection, KB of RSS each',
  sides: sideNames,
  quickSides: ['quartet'],
  rounds: { full: 2, quick: 1 },
  rows: [
    { key: 'sse_rss', label: 'SSE', digits: 1, must: MOST },
    { key: 'sse_used', label: '… in use on and off the heap', digits: 1 },
    { key: 'websocket_rss', label: 'WebSocket', digits: 1, must: MOST },
    { key: 'websocket_used', label: '… in use on and off the heap', digits: 1 },
  ],
  measure,
}

async function measure(t: Scope, { redis, isQuick }: Bench, side: SideName): Promise<Sample> {
  const { urls, gateways } = await startSide(t, side, {
    redis,
    env: reportsMemory,
    nodeArgs: NODE_ARGS,
  })
  const [gateway] = gateways
  if (!gateway) throw new Error('Expected a gateway, got none')
  const jobId = await submit(urls[0] ?? '', { type: 'held', input: {} })
  const count = isQuick ? 2_000 : 4_000

  await Promise.all([hold('sse', WARM_UP), hold('websocket', WARM_UP)])
  const before = await settled(gateway)
  await hold('sse', count)
  const withStreams = await settled(gateway)
  await hold('websocket', count)
  const withAll = await settled(gateway)
  const each = (more: number, less: number) => (more - less) / count / KB
  return {
    sse_rss: each(withStreams.rss, before.rss),
    sse_used: each(withStreams.used, before.used),
    websocket_rss: each(withAll.rss, withStreams.rss),
    websocket_used: each(withAll.used, withStreams.used),
  }

  async function hold(mode: string, many: number): Promise<void> {
    const options = JSON.stringify({ mode, urls, jobId, count: many })
    const load = spawnProcess(t, ['node', 'dist/bench/load/main.js', 'hold', options])
    await load.waitForLine(/^open \d+$/, 60_000)
  }
}

async function settled(gateway: TestProcess): Promise<Memory> {
  await memoryOf(gateway)
  // Pages are given back in the background.
  await delay(RELEASE_MS)
  return memoryOf(gateway)
}
