import type { TestRedis } from '../test/helper.ts'
import { spawnProcess } from '../test/helper.ts'
import type { Watched } from './load/cpu.ts'
import type { Report } from './load/report.ts'
import type { Scope } from './scope.ts'
import type { Side, SideName } from './sides.ts'

/** What one measurement of one side found, by the rows' keys. */
export type Sample = Readonly<Record<string, number>>

/** What a row must reach, in words and as a test of the two medians and their ratio (Quartet / baseline). */
export interface Must {
  readonly text: string
  isMet(figures: { readonly ratio: number; readonly quartet: number }): boolean
}

export interface Row {
  readonly key: string
  readonly label: string
  /** Digits after the point. */
  readonly digits: number
  readonly must?: Must
}

/** One figure, or several that one measurement brings. */
export interface Figure {
  /** For `--only`. */
  readonly name: string
  readonly title: string
  /** In the order of a round; one side alone where the other has no such thing. */
  readonly sides: readonly SideName[]
  /** With `--quick`, if they are fewer. */
  readonly quickSides?: readonly SideName[]
  readonly rows: readonly Row[]
  /** Measurements of each side: in full, and with `--quick`. */
  readonly rounds: { readonly full: number; readonly quick: number }
  /** Starts a side, measures it once and leaves the rest to the scope. */
  measure(t: Scope, bench: Bench, side: SideName): Promise<Sample>
}

export interface Bench {
  readonly redis: TestRedis
  readonly isQuick: boolean
}

export const atLeast = (factor: number): Must => ({
  text: `≥ ${factor} ×`,
  isMet: ({ ratio }) => ratio >= factor,
})
export const atMost = (factor: number): Must => ({
  text: `≤ ${factor} ×`,
  isMet: ({ ratio }) => ratio <= factor,
})
export const atMostIs = (most: number, text: string): Must => ({
  text: `≤ ${text}`,
  isMet: ({ quartet }) => quartet <= most,
})

export const cpuRows = (unit: string): Row[] => [
  { key: 'cpu_gateway', label: `CPU µs per ${unit}: gateway`, digits: 1 },
  { key: 'cpu_redis', label: '… Redis', digits: 1 },
  { key: 'cpu_worker', label: '… workers', digits: 1 },
  { key: 'load_share', label: 'load client, % of one core', digits: 0 },
  { key: 'others_share', label: 'all else on the machine, % of one core', digits: 0 },
]

/** Of a report: CPU by what was counted; whether the load client was near its limit, and who else was there. */
export function cpuOf({ cpu, count, seconds }: Report): Sample {
  return {
    cpu_gateway: cpu.gateway / count,
    cpu_redis: cpu.redis / count,
    cpu_worker: cpu.worker / count,
    load_share: cpu.load / seconds / 10_000,
    others_share: cpu.others / seconds / 10_000,
  }
}

const LOAD_LIMIT_MS = 120_000

/** Runs a load client to its end. */
export async function runLoad(t: Scope, kind: string, options: object): Promise<Report> {
  const load = spawnProcess(t, ['node', 'dist/bench/load/main.js', kind, JSON.stringify(options)], {
    env: { NODE_ENV: 'production' },
  })
  const [, text = ''] = await load.waitForLine(/^report (.*)$/, LOAD_LIMIT_MS)
  return JSON.parse(text) as Report
}

export function watchedOf(redis: TestRedis, { gateways, workers }: Side): Watched {
  return {
    gateway: gateways.map(({ pid }) => pid),
    redis: [redis.pid],
    worker: workers.map(({ pid }) => pid),
  }
}
