import type { JobEvent } from '../messages.ts'
import type { PageRequest } from './page.ts'

/**
 * The callback queue: which event goes to which return address, when, and what became of it. One event of a job is
 * under way at a time, in the order of seq. An origin (scheme, host and port) has a bounded number of tries under way,
 * and a circuit that opens when it keeps failing, over all nodes; what waits for one origin is in nobody's way.
 */
export interface Deliveries {
  /**
   * Brings a job's next event for its return address into the queue, unless one is there. Repeating it is harmless.
   * Progress goes at most every half second, and then the latest of it; what follows progress makes it go at once.
   */
  handOver(id: string): Promise<void>

  /**
   * Sets or changes the return address and hands over what it asks for. Events up to `after` count as delivered;
   * deliveries to an earlier one are void. False: no such job.
   */
  setCallback(id: string, callback: Callback, after: number): Promise<boolean>

  /** The return address and what is in the queue for it; null without one. */
  callback(id: string): Promise<CallbackState | null>

  /** Takes up to `limit` tries that are due. Each is to be settled within `leaseMs`, or counts as never made. */
  claim(limit: number, leaseMs: number): Promise<Claimed>

  /** Says how a try has ended, and hands over the job's next event. Of a claim that was lost only the try is kept. */
  settle(claim: Claim, settlement: Settlement): Promise<void>

  /** Calls `listener` whenever something becomes due sooner than was known, with when; now, after an interruption. */
  onDue(listener: (at: number) => void): () => void

  /** What became of a job's deliveries, by seq; null if the job is not here or belongs to another tenant. */
  record(tenant: string, id: string): Promise<JobDeliveries | null>

  /** The tenant's dead letters, the latest first. */
  dead(tenant: string, filter: DeadFilter, page: PageRequest): Promise<DeadPage>

  /**
   * Has an event delivered once more. If it is being delivered anyway it is tried now, by the same counter; a dead one
   * gets one try. `unknown`: no event of this job that was delivered or given up.
   */
  redeliver(tenant: string, id: string, seq: number): Promise<Redelivery>

  /** Origins whose circuit is open, up to `limit`. */
  openCircuits(limit: number): Promise<readonly OpenCircuit[]>
}

export interface Callback {
  readonly url: string
  /** Event types, `['*']` for all, or null for the terminal one only. */
  readonly events: readonly string[] | null
}

export interface Delivery {
  readonly seq: number
  /** Counts the changes of the return address: a delivery of an older one is void. */
  readonly generation: number
}

export interface CallbackState {
  readonly callback: Callback
  /** What is in the queue, waiting or under way. */
  readonly pending: Delivery | null
  /** Whether an event is to be delivered once more. */
  readonly isRedelivering: boolean
  /** Until when the job is kept for its dead letters; null without any. */
  readonly keptUntil: number | null
}

export interface Claimed {
  readonly claims: readonly Claim[]
  /** When there is more to do, as far as is known; null when nothing waits. */
  readonly nextAt: number | null
}

/** A try to be made. */
export interface Claim extends Delivery {
  readonly id: string
  readonly tenant: string
  /** Tells this claim from any other of the job. */
  readonly token: number
  readonly origin: string
  readonly url: string
  /** Null if the journal no longer has it. */
  readonly event: JobEvent | null
  /** Tries that counted so far; a redelivery counts for nothing. */
  readonly attempts: number
  readonly isRedelivery: boolean
  /** It has waited too long for its origin's circuit, and is to be given up untried. */
  readonly isOverdue: boolean
}

export interface Settlement {
  /**
   * `gone`: dead, and so is the return address: nothing more is delivered to it until it is set again or a redelivery
   * succeeds. `retry` counts the try, `postponed` does not.
   */
  readonly ending: 'delivered' | 'dead' | 'gone' | 'retry' | 'postponed'
  /** When it is to be tried again, for `retry` and `postponed`. Milliseconds since the epoch. */
  readonly at?: number
  /** What the try says of the origin: that it answers, that it fails, or nothing. */
  readonly origin: 'up' | 'down' | 'unknown'
  /** What is kept of the try. */
  readonly record: Try
}

/** One try, as it is kept. Nothing of the receiver's answer but its status is in it. */
export interface Try {
  readonly type: string
  readonly at: number
  readonly durationMs: number
  readonly outcome: 'delivered' | 'failed' | 'dead'
  readonly statusCode: number | null
  readonly reason: string | null
  readonly error: string | null
  readonly isRedelivery: boolean
}

export interface JobDeliveries {
  readonly origin: string | null
  /** Whether the receiver has said that it is gone (410). */
  readonly isGone: boolean
  /** Until when nothing is tried, as the origin keeps failing; null while its circuit is closed. */
  readonly openUntil: number | null
  readonly deliveries: readonly DeliveryRecord[]
}

export interface DeliveryRecord {
  readonly seq: number
  readonly type: string
  /** `void`: the return address was changed before it was delivered. */
  readonly status: 'pending' | 'delivered' | 'dead' | 'void'
  /** When it is tried next; null unless it is pending and waits. */
  readonly nextTryAt: number | null
  readonly tries: readonly Try[]
}

export interface DeadFilter {
  readonly origin?: string
  /** Milliseconds since the epoch. */
  readonly since?: number
}

export interface DeadLetter {
  readonly id: string
  readonly seq: number
  readonly origin: string
  readonly diedAt: number
}

export interface DeadPage {
  readonly letters: readonly DeadLetter[]
  readonly next: string | null
}

export type Redelivery = 'scheduled' | 'under_way' | 'no_callback' | 'unknown' | 'not_found'

export interface OpenCircuit {
  readonly origin: string
  readonly until: number
}
