import { availableParallelism } from 'node:os'
import { parseArgs } from 'node:util'
import { startRedis } from '../test/helper.ts'
import { compare } from './compare.ts'
import { accept } from './figures/accept.ts'
import { endToEnd } from './figures/end-to-end.ts'
import { fanOutFigures } from './figures/fan-out.ts'
import { idle } from './figures/idle.ts'
import { latencyFigures } from './figures/latency.ts'
import { scale } from './figures/scale.ts'
import { start } from './figures/start.ts'
import { stream } from './figures/stream.ts'
import { head, report } from './report.ts'
import { endOnSignal, withScope } from './scope.ts'

/*
 * Quartet beside what one would write by hand on the same packages: `npm run bench`, which builds both, `-- --quick`
 * for fewer and shorter rounds, `-- --only accept,sse` for some of the figures. See docs/PERFORMANCE.md.
 */
const figures = [accept, ...latencyFigures, endToEnd, stream, ...fanOutFigures, idle, start, scale]

const { values: options } = parseArgs({
  options: { quick: { type: 'boolean', default: false }, only: { type: 'string' } },
})
const chosen = choose(options.only)
endOnSignal()
process.exitCode = (await main()) ? 0 : 1

async function main(): Promise<boolean> {
  const startedAt = performance.now()
  let isMet = true
  await withScope(async (t) => {
    // It is written anew between the measurements, and in none of them.
    const redis = await startRedis(t, { args: ['--auto-aof-rewrite-percentage', '0'] })
    console.log(head.join('\n'))
    for (const figure of chosen) {
      const found = report(figure, await compare({ redis, isQuick: options.quick }, figure))
      console.log(found.lines.join('\n'))
      isMet &&= found.isMet
    }
  })
  const seconds = Math.round((performance.now() - startedAt) / 1_000)
  console.log(`\n${seconds} s on ${availableParallelism()} cores, Node ${process.version}`)
  return isMet
}

function choose(only: string | undefined): typeof figures {
  if (only === undefined) return figures
  return only.split(',').map((name) => {
    const found = figures.find((figure) => figure.name === name)
    if (found) return found
    throw new Error(`Expected some of ${figures.map((each) => each.name).join(', ')}, got ${name}`)
  })
}
