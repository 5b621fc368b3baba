import { atMost, cpuOf, cpuRows, runLoad, watchedOf, type Bench, type Figure } from '../figure.ts'
import type { Round } from '../load/speakers.ts'
import { sideNames, startSide } from '../sides.ts'

export const CLIENTS = 1_000
const EVENTS = 100
const PER_SECOND = 20

const burst: Round = { count: EVENTS, at_once: true }
const paced: Round = { count: EVENTS, interval_ms: 1_000 / PER_SECOND }

interface Crowd {
  readonly name: string
  readonly what: string
  /** Of the baseline's CPU. */
  readonly most: number
  /** Rounds in full. */
  readonly full: number
  /** What the job tells. The first of it is the warm-up. */
  readonly job: (bench: Pick<Bench, 'isQuick'>) => Round[]
}

export const crowds: readonly Crowd[] = [
  {
    name: 'burst',
    what: `${EVENTS} events in a burst`,
    most: 0.7,
    full: 2,
    job: ({ isQuick }) => Array.from({ length: isQuick ? 4 : 7 }, () => burst),
  },
  {
    name: 'paced',
    what: `${EVENTS} events, ${PER_SECOND} a second`,
    most: 0.8,
    full: 2,
    job: ({ isQuick }) => [burst, isQuick ? { ...paced, count: EVENTS / 2 } : paced],
  },
]

/** One job that a crowd follows. */
export const fanOutFigures: readonly Figure[] = crowds.map(fanOutOf)

function fanOutOf({ name, what, most, full, job }: Crowd): Figure {
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
