import { atLeast, atMost, cpuOf, cpuRows, runLoad, watchedOf, type Figure } from '../figure.ts'
import { sideNames, startSide } from '../sides.ts'

const AT_ONCE = 64

/** From the submission to the result, over SSE, with as many jobs as the whole can take. */
export const endToEnd: Figure = {
  name: 'e2e',
  title: `end to end over SSE, ${AT_ONCE} at a time`,
  sides: sideNames,
  rounds: { full: 4, quick: 1 },
  rows: [
    { key: 'per_second', label: 'jobs/s', digits: 0, must: atLeast(1.3) },
    { key: 'p50_ms', label: 'p50 ms', digits: 1 },
    { key: 'p99_ms', label: 'p99 ms', digits: 1 },
    { key: 'cpu_both', label: 'CPU µs per job: gateway + Redis', digits: 0, must: atMost(0.8) },
    ...cpuRows('job'),
  ],
  async measure(t, { redis, isQuick }, side) {
    const started = await startSide(t, side, { redis })
    const report = await runLoad(t, 'endToEnd', {
      urls: started.urls,
      watched: watchedOf(redis, started),
      atOnce: AT_ONCE,
      warmUp: isQuick ? 5_000 : 8_000,
      measureMs: isQuick ? 2_500 : 4_000,
    })
    const cpu = cpuOf(report)
    return {
      per_second: report.count / report.seconds,
      ...report.values,
      ...cpu,
      cpu_both: (cpu['cpu_gateway'] ?? NaN) + (cpu['cpu_redis'] ?? NaN),
    }
  },
}
