import { accept, endToEnd } from './submit.ts'
import { fanOut } from './fan-out.ts'
import { hold } from './hold.ts'
import { latency } from './latency.ts'
import type { Report } from './report.ts'
import { stream } from './stream.ts'

/*
 * A load client, in a process of its own: `main.js <kind> <options as JSON>`. The same for both sides. It checks every
 * answer and fails at the first that is not the one expected; its last line is `report <JSON>`.
 */
const kinds: Record<string, (options: never) => Promise<Report>> = {
  accept,
  endToEnd,
  latency,
  stream,
  fanOut,
  hold,
}

const [kind = '', options = ''] = process.argv.slice(2)
const run = kinds[kind]
if (!run) throw new Error(`Expected one of ${Object.keys(kinds).join(', ')}, got ${kind}`)
console.log(`report ${JSON.stringify(await run(JSON.parse(options) as never))}`)
process.exit(0)
