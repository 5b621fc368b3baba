import { atLeast, atMost, cpuOf, cpuRows, runLoad, watchedOf, type Figure } from '../figure.ts'
import { sideNames, startSide } from '../sides.ts'

const EVENTS = 1_000

/** One client that hears all that a talkative job has to say. */
export const stream: Figure = {
  name: 'stream',
  title: `one stream, ${EVENTS.toLocaleString('en')} progress events`,
  sides: sideNames,
  rounds: { full: 4, quick: 1 },
  rows: [
    { key: 'per_second', label: 'events/s', digits: 0, must: atLeast(1) },
    { key: 'p50_ms', label: 'from `updateProgress` to receipt, p50 ms', digits: 2 },
    { key: 'p99_ms', label: '… p99 ms', digits: 2, must: atMost(1) },
    ...cpuRows('event'),
  ],
  async measure(t, { redis, isQuick }, side) {
    const started = await startSide(t, side, { redis })
    const report = await runLoad(t, 'stream', {
      urls: started.urls,
      watched: watchedOf(redis, started),
      events: EVENTS,
      warmUp: 5,
      measured: isQuick ? 8 : 20,
    })
    return { ...report.values, ...cpuOf(report) }
  },
}
