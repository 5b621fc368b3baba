import { atMostIs, type Figure, type Sample, type Bench } from '../figure.ts'
import { memoryOf, reportsMemory } from '../../test/faults/process-figures.ts'
import { spawnProcess } from '../../test/helper.ts'
import type { Scope } from '../scope.ts'
import { sideNames, startSide, type SideName } from '../sides.ts'
import { submit } from '../../test/e2e/processes.ts'

const KB = 1_024
const MOST_KB = 12
/** Open before anything is measured: the first ones bring a heap that has room for more. */
const WARM_UP = 1_000

/** What a connection costs on which nothing happens. */
export const idleFigures: readonly Figure[] = [
  idleOf('idle-sse', 'sse', 'SSE'),
  idleOf('idle-websocket', 'websocket', 'WebSocket'),
]

function idleOf(name: string, mode: string, what: string): Figure {
  return {
    name,
    title: `idle ${what} connection`,
    sides: sideNames,
    rounds: { full: 2, quick: 1 },
    rows: [
      { key: 'rss_kb', label: 'KB of RSS', digits: 1, must: atMostIs(MOST_KB, `${MOST_KB} KB`) },
      { key: 'used_kb', label: 'KB in use on and off the heap', digits: 1 },
    ],
    measure: (t, bench, side) => measure(t, bench, side, mode),
  }
}

async function measure(t: Scope, { redis, isQuick }: Bench, side: SideName, mode: string): Promise<Sample> {
  const { urls, gateways } = await startSide(t, side, { redis, env: reportsMemory })
  const jobId = await submit(urls[0] ?? '', { type: 'held', input: {} })
  const count = isQuick ? 2_000 : 4_000
  const hold = async (many: number) => {
    const options = JSON.stringify({ mode, urls, jobId, count: many })
    const load = spawnProcess(t, ['node', 'dist/bench/load/main.js', 'hold', options])
    await load.waitForLine(/^open \d+$/, 60_000)
  }
  const gateway = gateways[0]
  if (!gateway) throw new Error('Expected a gateway, got none')
  await hold(WARM_UP)
  const before = await memoryOf(gateway)
  await hold(count)
  const after = await memoryOf(gateway)
  return {
    rss_kb: (after.rss - before.rss) / count / KB,
    used_kb: (after.used - before.used) / count / KB,
  }
}
