import { atMost, cpuOf, cpuRows, runLoad, watchedOf, type Bench, type Figure } from '../figure.ts'
import { sideNames, startSide } from '../sides.ts'

const CLIENTS = 1_000
const EVENTS = 100
const PER_SECOND = 20

type Round = { count: number; interval_ms?: number; at_once?: boolean }

const burst: Round = { count: EVENTS, at_once: true }
const paced: Round = { count: EVENTS, interval_ms: 1_000 / PER_SECOND }

/** One job that a crowd follows. The first round of each job is the warm-up. */
export const fanOutFigures: readonly Figure[] = [
  fanOutOf({
    name: 'burst',
    what: `${EVENTS} events in a burst`,
    most: 0.7,
    full: 4,
    job: ({ isQuick }) => Array.from({ length: isQuick ? 4 : 7 }, () => burst),
  }),
  fanOutOf({
    name: 'paced',
    what: `${EVENTS} events, ${PER_SECOND} a second`,
    most: 0.8,
    full: 2,
    job: ({ isQuick }) => [burst, isQuick ? { ...paced, count: EVENTS / 2 } : paced],
  }),
]

interface FanOut {
  readonly name: string
  readonly what: string
  readonly most: number
  readonly full: number
  readonly job: (bench: Bench) => Round[]
}

function fanOutOf({ name, what, most, full, job }: FanOut): Figure {
  return {
    name,
    title: `${CLIENTS.toLocaleString('en')} SSE clients on one job, ${what}`,
    sides: sideNames,
    rounds: { full, quick: 1 },
    rows: [
      { key: 'cpu_gateway', label: 'CPU µs per delivery: gateway', digits: 2, must: atMost(most) },
      { key: 'per_second', label: 'deliveries/s', digits: 0 },
      ...cpuRows('delivery').slice(1),
    ],
    async measure(t, bench, side) {
      const { redis } = bench
      const started = await startSide(t, side, { redis })
      const report = await runLoad(t, 'fanOut', {
        urls: started.urls,
        watched: watchedOf(redis, started),
        speaker: 'worker',
        redisUrl: redis.url,
        clients: CLIENTS,
        rounds: job(bench),
      })
      return { ...report.values, ...cpuOf(report) }
    },
  }
}
