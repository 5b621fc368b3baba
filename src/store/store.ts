import type { JobEvent, JobRecord, JobStatus } from '../messages.ts'
import type { ApiKeys } from './api-keys.ts'
import type { Callback, Deliveries, OpenCircuit } from './deliveries.ts'
import type { Limits } from './limits.ts'
import type { PageRequest } from './page.ts'

/**
 * The message store: every job's record and journal, and what the gateway must remember to keep its promises.
 * One narrow port; Redis is the first adapter (redis/). test/store-contract.ts holds every adapter to what is said here.
 *
 * All methods reject with the driver's error when the store is away; nothing is retried here. What a method writes for a
 * job it writes in one atomic step. Times are milliseconds since the epoch, by the store's clock ({@link Store.now}).
 */
export interface Store {
  /**
   * Takes a new job in: its record, its first event and the input of its first step.
   * Repeating it with the same id changes nothing. With an idempotency key that is taken, or when as many jobs of its
   * type (`full`), or of its type and tenant (`tenant_full`), wait as may, nothing is stored.
   */
  accept(job: NewJob): Promise<Accepted>

  /** Takes back a job that was accepted, without a key, but could not be enqueued. Once it has moved on, it stays. */
  withdraw(job: Pick<JobRecord, 'id' | 'tenant' | 'type'>): Promise<void>

  /** The records of jobs, null for those not (or no longer) here, in the order asked for. */
  load(ids: readonly string[]): Promise<(Stored | null)[]>

  /**
   * Applies what a source told: all changes and the source's cursor, or nothing.
   * `fenced`: the cursor is not at `from`, somebody else has applied this already. `conflict`: these jobs have changed
   * since they were loaded; load them again. `applied` names the jobs that have an event for their return address.
   */
  apply(fence: Fence | null, changes: readonly Change[]): Promise<Applied>

  /** Where a source has been applied up to; `null` before its first. */
  cursor(source: string): Promise<string | null>

  /** The job as text, its record and seq; null if it is not here or belongs to another tenant. */
  get(tenant: string, id: string): Promise<JobView | null>

  /**
   * A page of the journal after `after`, at most `limit` events and about 1 MiB of text. `null` if the job is not here.
   * `trimmed`: the seq up to which the journal was cut; events start behind the larger of the two. `more`: there were
   * further events at the moment of reading.
   */
  read(id: string, after: number, limit: number): Promise<JournalPage | null>

  /**
   * Calls `listener` with each batch of events that is applied from now on (resolves once that holds), and maybe with
   * one that was applied just before.
   */
  follow(id: string, listener: Listener): Promise<Followed>

  /** The tenant's jobs, newest first. */
  list(tenant: string, filter: ListFilter, page: PageRequest): Promise<JobList>

  /** Up to `limit` jobs whose due time has passed; they are not named again for `claimMs`. */
  overdue(now: number, limit: number, claimMs: number): Promise<string[]>

  /** Sets when a job is to be looked at again. */
  postpone(id: string, due: number): Promise<void>

  /** Makes every unfinished job due now: a source has lost some of what it told. */
  suspectAll(now: number): Promise<void>

  /**
   * Deletes a finished job and everything of it; with `delivered`, unless something of it is to be delivered by now: it
   * may have been given a return address, or redelivered, since that was looked at. False: it stays.
   */
  forget(tenant: string, id: string, when?: 'delivered'): Promise<boolean>

  /** Takes or keeps the exclusive duty for a source for `ttlMs`. Only saves double work: the cursor is what is safe. */
  lease(source: string, owner: string, ttlMs: number): Promise<boolean>
  release(source: string, owner: string): Promise<void>

  /** The callback queue. */
  readonly deliveries: Deliveries

  /** Who may do what. */
  readonly apiKeys: ApiKeys

  /** How much of it. */
  readonly limits: Limits

  /**
   * Says that this node is here for `ttlMs` and would take on these sources; 0 says that it leaves. Resolves to every
   * node that is here, with its sources. Also sets this process's idea of the store's clock.
   */
  announce(node: string, sources: readonly string[], ttlMs: number): Promise<Nodes>

  /**
   * The store's clock, by the last {@link Store.announce} of this process; its own clock before the first. All nodes
   * share it, so that a node whose clock is wrong expires nothing too early or too late.
   */
  readonly now: () => number

  /** For each type of job how many wait for their first attempt, and how many have had it since the store was made. */
  backlog(types: readonly string[]): Promise<Backlog[]>

  /** Says until when the circuit of a service, an origin, is open; null: it is closed. For {@link Store.openServices}. */
  reportService(origin: string, openUntil: number | null): Promise<void>

  /** Services whose circuit is open, as the last process that reported them has it, up to `limit`. */
  openServices(limit: number): Promise<readonly OpenCircuit[]>

  /** Resolves when the store answers and is fit to keep promises; rejects with an Error that says what is wrong. */
  check(): Promise<void>

  close(): Promise<void>
}

export interface NewJob {
  readonly record: JobRecord
  /** `job.queued`, seq 1. */
  readonly event: string
  /** JSON text: what the first step is given. */
  readonly input: string
  readonly callback: Callback | null
  readonly idempotency: Idempotency | null
  /** How many jobs of its type may wait for their first attempt, this one included. */
  readonly maxWaiting: number
  /** How many of them its tenant may have; null for no bound of its own. */
  readonly maxWaitingPerTenant: number | null
  /** Somebody here is about to follow it from its first event on. */
  readonly isFollowed?: boolean
}

export interface Idempotency {
  readonly key: string
  /** A digest of the request's body: what "the same request" means. */
  readonly fingerprint: string
  readonly keepMs: number
}

export type Accepted =
  | { readonly status: 'accepted' }
  | { readonly status: 'duplicate'; readonly id: string }
  | { readonly status: 'mismatch'; readonly id: string }
  | { readonly status: 'full' }
  | { readonly status: 'tenant_full' }

export interface Stored {
  readonly record: JobRecord
  /** Grows with every change, also with those that have no event. */
  readonly version: number
  /** JSON text of what the current step is to be given, until a worker has started on it. */
  readonly input: string | null
}

export interface Change {
  /** The version that `record` was computed from. */
  readonly version: number
  readonly record: JobRecord
  /** Envelopes; the last one's seq is the record's. */
  readonly events: readonly string[]
  /** Replaces the stored input, or with null drops it; without it, it stays. */
  readonly input?: string | null
}

export interface Fence {
  readonly source: string
  /** The cursor that the changes were computed from. */
  readonly from: string | null
  readonly to: string
}

export type Applied =
  | { readonly status: 'applied'; readonly callbacks: readonly string[] }
  | { readonly status: 'fenced'; readonly cursor: string | null }
  | { readonly status: 'conflict'; readonly ids: readonly string[] }

/** The nodes that are here: each one's name, and the sources that it would take on. */
export type Nodes = ReadonlyMap<string, readonly string[]>

export interface Backlog {
  readonly waiting: number
  readonly started: number
}

export interface JobView {
  readonly record: JobRecord
  /** The job object of the protocol, as JSON text; for an ended job the very bytes of its terminal event. */
  readonly text: string
}

export interface JournalPage {
  readonly events: readonly JobEvent[]
  readonly trimmed: number
  readonly more: boolean
}

export interface Listener {
  events(events: readonly JobEvent[]): void
  /** Something may have been missed: read the journal again. */
  interrupted(): void
}
export type Unfollow = () => void

export interface Followed {
  readonly unfollow: Unfollow
  /** All events after this one will be heard; null where the journal must be read to know what was before. */
  readonly from: number | null
}

export interface ListFilter {
  readonly status?: JobStatus
  readonly type?: string
}

export interface JobList {
  readonly jobs: readonly JobView[]
  readonly next: string | null
}
