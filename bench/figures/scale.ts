import { cpuOf, runLoad, watchedOf, type Bench, type Figure, type Must, type Row } from '../figure.ts'
import { withScope } from '../scope.ts'
import { startSide } from '../sides.ts'

const AT_ONCE = 256
const COUNTS = [1, 2, 4] as const
/** Less than this is the noise of two measurements. */
const SLACK = 0.9

const mustNotFall: Must = { text: 'no fall', isMet: ({ quartet }) => quartet >= SLACK }

/** More gateways and workers on one Redis: `n` of each. */
export const scale: Figure = {
  name: 'scale',
  title: `jobs/s end to end over SSE, ${AT_ONCE} at a time, with 1 → 2 → 4 gateways and as many worker processes`,
  sides: ['quartet'],
  rounds: { full: 4, quick: 1 },
  rows: [
    ...COUNTS.flatMap(rowsOf),
    { key: '2_of_1', label: 'jobs/s of 2 + 2, in those of 1 + 1', digits: 2, must: mustNotFall },
    { key: '4_of_2', label: 'jobs/s of 4 + 4, in those of 2 + 2', digits: 2, must: mustNotFall },
  ],
  async measure(_t, bench) {
    const samples: Record<string, number> = {}
    for (const many of COUNTS) Object.assign(samples, await measureWith(bench, many))
    return {
      ...samples,
      '2_of_1': (samples['2_per_second'] ?? NaN) / (samples['1_per_second'] ?? NaN),
      '4_of_2': (samples['4_per_second'] ?? NaN) / (samples['2_per_second'] ?? NaN),
    }
  },
}

function rowsOf(many: number): Row[] {
  return [
    { key: `${many}_per_second`, label: `${many} + ${many}: jobs/s`, digits: 0 },
    { key: `${many}_gateway`, label: '… CPU µs per job: gateways', digits: 0 },
    { key: `${many}_redis`, label: '… Redis', digits: 0 },
    { key: `${many}_worker`, label: '… workers', digits: 0 },
    { key: `${many}_cores`, label: '… cores in use, of all and the load client', digits: 2 },
  ]
}

function measureWith({ redis, isQuick }: Bench, many: number): Promise<Record<string, number>> {
  return withScope(async (t) => {
    const started = await startSide(t, 'quartet', { redis, gateways: many, workers: many })
    const report = await runLoad(t, 'endToEnd', {
      urls: started.urls,
      watched: watchedOf(redis, started),
      atOnce: AT_ONCE,
      // Each of the processes has to be warm.
      warmUp: (isQuick ? 2_000 : 4_000) * many,
      measureMs: isQuick ? 2_000 : 4_000,
    })
    const { cpu_gateway = 0, cpu_redis = 0, cpu_worker = 0 } = cpuOf(report)
    const { cpu, seconds, count } = report
    const used = cpu.gateway + cpu.redis + cpu.worker + cpu.load
    return {
      [`${many}_per_second`]: count / seconds,
      [`${many}_gateway`]: cpu_gateway,
      [`${many}_redis`]: cpu_redis,
      [`${many}_worker`]: cpu_worker,
      [`${many}_cores`]: used / seconds / 1e6,
    }
  })
}
