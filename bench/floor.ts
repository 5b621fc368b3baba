import { startRedis } from '../test/helper.ts'
import { alternate } from './alternate.ts'
import { accept } from './figures/accept.ts'
import { report } from './report.ts'
import { endOnSignal, withScope } from './scope.ts'

/*
 * How much there is to gain by accepting jobs in any other way: `npm run bench:floor`, a minute. The least that takes a job on
 * Fastify and BullMQ (floor/main.ts), which does nothing of what a gateway is for, beside the baseline, which does.
 */
endOnSignal()
await withScope(async (t) => {
  const redis = await startRedis(t, { args: ['--auto-aof-rewrite-percentage', '0'] })
  const rows = accept.rows.map(({ key, label, digits }) => ({ key, label, digits }))
  const figure = { ...accept, sides: ['baseline', 'floor'], rows } as const
  const { baseline, floor } = await alternate({ redis, isQuick: false }, figure)
  console.log('| | baseline | floor | ratio | | |\n|---|---|---|---|---|---|')
  console.log(report(figure, { baseline, quartet: floor }).lines.join('\n'))
})
