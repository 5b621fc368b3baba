import { atMost, cpuOf, cpuRows, runLoad, watchedOf, type Figure, type Must } from '../figure.ts'
import { sideNames, startSide, type SideName } from '../sides.ts'

/** From the submission to the result in hand, while nothing else is going on. */
export const latencyFigures: readonly Figure[] = [
  latencyOf('sse', 'SSE', sideNames, atMost(1)),
  latencyOf('websocket', 'WebSocket', sideNames, atMost(1)),
  // The baseline cannot hold an answer.
  latencyOf('wait', '`Prefer: wait`', ['quartet']),
  latencyOf('webhook', 'webhook', sideNames, atMost(1.2)),
]

function latencyOf(name: string, mode: string, sides: readonly SideName[], must?: Must): Figure {
  return {
    name,
    title: `submit → result over ${mode}, idle`,
    sides,
    rounds: { full: 4, quick: 1 },
    rows: [
      { key: 'p50_ms', label: 'p50 ms', digits: 2, ...(must && { must }) },
      { key: 'p99_ms', label: 'p99 ms', digits: 2 },
      ...cpuRows('job'),
    ],
    async measure(t, { redis, isQuick }, side) {
      const started = await startSide(t, side, { redis })
      const report = await runLoad(t, 'latency', {
        mode: name,
        urls: started.urls,
        watched: watchedOf(redis, started),
        compiling: isQuick ? 1_500 : 3_000,
        warmUp: 100,
        measured: isQuick ? 150 : 250,
      })
      return { ...report.values, ...cpuOf(report) }
    },
  }
}
