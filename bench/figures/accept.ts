import { atLeast, atMost, cpuOf, cpuRows, runLoad, watchedOf, type Figure } from '../figure.ts'
import { sideNames, startSide } from '../sides.ts'

const AT_ONCE = 128

/** How many jobs a gateway takes while the workers are busy with them. */
export const accept: Figure = {
  name: 'accept',
  title: `accept: POST → 202, ${AT_ONCE} at a time, workers running`,
  sides: sideNames,
  rounds: { full: 4, quick: 1 },
  rows: [
    { key: 'per_second', label: 'jobs/s', digits: 0, must: atLeast(1.5) },
    { key: 'p50_ms', label: 'p50 ms', digits: 1 },
    { key: 'p99_ms', label: 'p99 ms', digits: 1, must: atMost(1) },
    ...cpuRows('job'),
  ],
  async measure(t, { redis, isQuick }, side) {
    const started = await startSide(t, side, { redis })
    const report = await runLoad(t, 'accept', {
      urls: started.urls,
      watched: watchedOf(redis, started),
      atOnce: AT_ONCE,
      warmUp: isQuick ? 10_000 : 15_000,
      measureMs: isQuick ? 2_500 : 4_000,
    })
    return { per_second: report.count / report.seconds, ...report.values, ...cpuOf(report) }
  },
}
