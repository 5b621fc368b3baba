import { endOnSignal, withScope } from '../scope.ts'
import { tellChain } from './chain.ts'
import { tellQuartet, type QuartetStory } from './quartet.ts'
import {
  BURST,
  DEAD_MS,
  NETWORK_MS,
  PATIENCE_MS,
  SLOTS,
  WORK_MS,
  type BurstFigures,
  type Story,
} from './story.ts'

/*
 * Why one would put a queue in between: `npm run compare`. The same three services, as processes, behind the same
 * network, called (a) as a synchronous chain and (b) as the steps of a Quartet job. Ends with 1 if anything that was
 * accepted was lost, or done twice.
 */

const LIMIT_MS = 175_000

endOnSignal()
setTimeout(() => {
  console.error(`Expected an end within ${LIMIT_MS / 1_000} s, got none: the machine may be too busy`)
  process.kill(process.pid, 'SIGTERM')
}, LIMIT_MS).unref()
const chain = await withScope(tellChain)
const quartet = await withScope(tellQuartet)
print(chain, quartet)
process.exitCode = quartet.lost === 0 ? 0 : 1

function print(a: Story, b: QuartetStory): void {
  console.log(
    `Three services with ${WORK_MS.join(', ')} ms of work, ${SLOTS} at a time each; the network takes ${NETWORK_MS} ms ` +
      `each way; whoever waits gives up after ${PATIENCE_MS} ms.\n`,
  )
  const rows: [what: string, chain: string, quartet: string][] = [
    ['', 'synchronous chain', 'through Quartet'],
    ['---', '---', '---'],
    ['the client has an answer after', ms(a.answeredMs), ms(b.answeredMs)],
    ['the work is done after', ms(a.doneMs), ms(b.doneMs)],
    [
      `C is dead for ${DEAD_MS / 1_000} s: an order is`,
      `${a.dead.accepted} of ${a.dead.orders} times answered, the others fail after ${ms(a.dead.answeredMs)}`,
      `${b.dead.accepted} of ${b.dead.orders} times accepted, after ${ms(b.dead.answeredMs)}`,
    ],
    ['… A and B have done', work(a), `${work(b)}; the rest of it waits for C`],
    ['… others who need only A', others(a), others(b)],
    [
      'C is back: of the orders of the outage',
      `${a.back.done} are done, ${a.dead.orders - a.back.done} are lost unless sent again; a new one works after ${ms(a.back.lastMs)}`,
      `${b.back.done} are done, the last after ${ms(b.back.lastMs)}`,
    ],
    [
      `${BURST} orders at once: served`,
      `${a.burst.accepted}, ${BURST - a.burst.accepted} fail`,
      `${b.burst.accepted}${again(b.burst)}`,
    ],
    [
      '… an answer takes (p50, p99)',
      a.burst.answeredMs.map(ms).join(', '),
      b.burst.answeredMs.map(ms).join(', '),
    ],
    ['… all that were served are done after', ms(a.burst.lastMs), ms(b.burst.lastMs)],
    ['… at most in A at a time', String(a.burst.mostInA), String(b.burst.mostInA)],
    [
      '… done in a second; with twice the consumers',
      '–',
      `${perSecond(b.burst)}; ${perSecond(b.twice)}, ${(b.twice.perSecond / b.burst.perSecond).toFixed(2)} times as many`,
    ],
    ['accepted, and lost or done twice', '–', String(b.lost)],
  ]
  for (const row of rows) console.log(`| ${row.join(' | ')} |`)

  console.log('\nThrough Quartet, the client has the result:\n\n| heard by | after |\n| --- | --- |')
  for (const { mode, ms: took } of b.modes) console.log(`| ${mode} | ${ms(took)} |`)
}

function work({ dead: { done, orders } }: Story): string {
  return `${done.join(' and ')} of ${orders}`
}

function others({ dead: { others, othersMs } }: Story): string {
  return `are answered ${others.join(' of ')} times, the slowest after ${ms(othersMs)}`
}

/** What a client that sent an order again does not notice: it is one order. */
function again({ again }: BurstFigures): string {
  return again > 0 ? `, ${again} of them when sent again` : ''
}

function perSecond({ perSecond }: BurstFigures): string {
  return perSecond.toFixed(1)
}

function ms(value: number): string {
  return `${Math.round(value).toLocaleString('en')} ms`
}
