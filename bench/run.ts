import { availableParallelism, cpus } from 'node:os'
import { parseArgs } from 'node:util'
import { startRedis, type TestRedis } from '../test/helper.ts'
import { alternate } from './alternate.ts'
import { accept } from './figures/accept.ts'
import { endToEnd } from './figures/end-to-end.ts'
import { fanOutFigures } from './figures/fan-out.ts'
import { idle } from './figures/idle.ts'
import { latencyFigures } from './figures/latency.ts'
import { scale } from './figures/scale.ts'
import { start } from './figures/start.ts'
import { stream } from './figures/stream.ts'
import { head, report, spread } from './report.ts'
import { endOnSignal, withScope } from './scope.ts'

/*
 * Quartet beside what one would write by hand on the same packages: `npm run bench`, which builds both, `-- --quick`
 * for fewer and shorter rounds, `-- --only accept,sse` for some of the figures. See docs/PERFORMANCE.md.
 */
const figures = [accept, ...latencyFigures, endToEnd, stream, ...fanOutFigures, idle, start, scale]

/** Percent of one core. */
const MOST_OTHERS = 20

const { values: options } = parseArgs({
  options: { quick: { type: 'boolean', default: false }, only: { type: 'string' } },
})
const chosen = choose(options.only)
endOnSignal()
process.exitCode = (await main()) ? 0 : 1

async function main(): Promise<boolean> {
  const startedAt = performance.now()
  let isMet = true
  const othersShares: number[] = []
  await withScope(async (t) => {
    // It is written anew between the measurements, and in none of them.
    const redis = await startRedis(t, { args: ['--auto-aof-rewrite-percentage', '0'] })
    console.log(await describeMachine(redis))
    console.log(head.join('\n'))
    for (const figure of chosen) {
      const measured = await alternate({ redis, isQuick: options.quick }, figure)
      const found = report(figure, measured)
      console.log(found.lines.join('\n'))
      isMet &&= found.isMet
      const samples = [...measured.baseline, ...measured.quartet]
      othersShares.push(...samples.flatMap((sample) => sample['others_share'] ?? []))
    }
  })
  console.log(`\n${Math.round((performance.now() - startedAt) / 1_000)} s`)
  const { median } = spread(othersShares)
  if (median > MOST_OTHERS)
    console.log(
      `The machine had other things to do: ${Math.round(median)} % of one core in the middle of all measurements. ` +
        'Times are not to be trusted then, CPU per job hardly.',
    )
  return isMet
}

async function describeMachine(redis: TestRedis): Promise<string> {
  const client = redis.connect()
  const info = await client.info('server')
  await client.quit()
  const version = /^redis_version:(\S+)/m.exec(info)?.[1]
  return `${availableParallelism()} cores (${cpus()[0]?.model}), Node ${process.version}, Redis ${version}\n`
}

function choose(only: string | undefined): typeof figures {
  if (only === undefined) return figures
  return only.split(',').map((name) => {
    const found = figures.find((figure) => figure.name === name)
    if (found) return found
    throw new Error(`Expected some of ${figures.map((each) => each.name).join(', ')}, got ${name}`)
  })
}
