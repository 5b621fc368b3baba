import { post, type Posted } from './post.ts'

/*
 * The order story: what is compared. Both sides have the same services, network, orders and patience.
 */

/** The three services' work. */
export const WORK_MS = [50, 100, 30] as const
/** Work that a service does at a time. */
export const SLOTS = 8
/** Calls that one of our processes makes to a service at a time: two of them fill it. */
export const CONSUMERS = 4
/** Of the network, each way. */
export const NETWORK_MS = 10
/** How long anybody waits for an answer before he gives up. */
export const PATIENCE_MS = 2_000
/** Orders one after another, for the times. */
export const SINGLE = 20
/** While C is dead: an order every so often, and somebody else who wants something of A alone. */
export const DEAD_MS = 6_000
export const PACE_MS = 50
export const OTHER_MS = 500
export const BURST = 500
/** A burst before the one that is measured, as the first finds everything cold. */
export const WARM_UP = 200

let orders = 0
/** The last event of an order that goes through three steps without trouble. */
export const LAST_SEQ = 7
export const newOrder = () => JSON.stringify({ order_id: `A-${++orders}` })

/** The body of POST /jobs for a new order. */
export function newJob(more = ''): string {
  return `{"type":"order",${more}"input":${newOrder()}}`
}

/** What is measured of either side. Times are milliseconds; of several orders the median, if nothing else is said. */
export interface Story {
  readonly answeredMs: number
  readonly doneMs: number
  readonly dead: {
    readonly orders: number
    /** How many of them were answered well, and how long an answer, or an error, took. */
    readonly accepted: number
    readonly answeredMs: number
    /** For how many A and B had done their work when C came back. */
    readonly done: readonly number[]
    /** Somebody else's calls to A: how many were answered in time, of how many, and how long the slowest took. */
    readonly others: readonly [answered: number, of: number]
    readonly othersMs: number
  }
  readonly back: {
    /** Orders of the outage that were done in the end, and how long after C was back the last one was. */
    readonly done: number
    readonly lastMs: number
  }
  readonly burst: BurstFigures
  /** Nothing that was accepted may be lost. */
  readonly lost: number
}

export interface BurstFigures {
  readonly accepted: number
  /** Of those, how many only when they were sent again. */
  readonly again: number
  /** Of those that were accepted. */
  readonly answeredMs: readonly [p50: number, p99: number]
  readonly done: number
  readonly lastMs: number
  /** Orders done in a second, of the middle of them: from the first tenth to the last. NaN for what is mostly errors. */
  readonly perSecond: number
  /** Calls that were in A at a time at most. */
  readonly mostInA: number
}

/** Somebody else's call to A, which needs neither B nor C. */
export function askOther(url: string): Promise<Posted> {
  return post(url, newOrder(), { timeoutMs: PATIENCE_MS, headers: { 'x-alone': '1' } })
}

export function othersOf(answers: readonly Posted[]): Pick<Story['dead'], 'others' | 'othersMs'> {
  const answered = answers.filter(({ status }) => status === 200)
  return {
    others: [answered.length, answers.length],
    othersMs: Math.max(...answers.map(({ ms }) => ms)),
  }
}
