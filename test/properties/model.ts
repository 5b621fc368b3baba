import { advance, changeOf, draftOf, type Outcome } from '../../src/advance.ts'
import { isTerminal, toEvent, type JobRecord } from '../../src/messages.ts'
import type { Callback, Delivery } from '../../src/store/deliveries.ts'
import type { Applied, Change, Fence, JournalPage, NewJob } from '../../src/store/store.ts'

/** What the store is to hold, said as simply as it can be. */
export interface Model {
  readonly jobs: Map<string, ModelJob>
  readonly cursors: Map<string, string>
}

export interface ModelJob {
  record: JobRecord
  version: number
  input: string | null
  /** All there ever were: the journal is their end. */
  readonly events: string[]
  callback: Callback | null
  generation: number
  delivered: number
  /** What was handed over; progress is `open` until it is claimed: later progress takes its place. */
  pending: (Delivery & { readonly open: boolean }) | null
}

export function accept({ jobs }: Model, { record, event, input, callback }: NewJob): void {
  const delivery = { callback, generation: callback ? 1 : 0, delivered: 0, pending: null }
  if (!jobs.has(record.id)) jobs.set(record.id, { record, version: 1, input, events: [event], ...delivery })
}

export function apply(model: Model, fence: Fence | null, changes: readonly Change[]): Applied {
  const cursor = fence && (model.cursors.get(fence.source) ?? null)
  if (fence && cursor !== fence.from) return { status: 'fenced', cursor }
  const stale = changes.filter(({ version, record }) => model.jobs.get(record.id)?.version !== version)
  if (stale.length > 0) return { status: 'conflict', ids: idsOf(stale) }
  for (const { version, record, events, input } of changes) {
    const job = jobOf(model, record.id)
    Object.assign(job, { version: version + 1, record, ...(input !== undefined && { input }) })
    job.events.push(...events)
  }
  if (fence) model.cursors.set(fence.source, fence.to)
  const heard = changes.filter(({ record, events }) =>
    events.some((event) => isFor(jobOf(model, record.id), event) && !joins(jobOf(model, record.id), event)),
  )
  return { status: 'applied', callbacks: idsOf(heard) }
}

export function read(job: ModelJob, after: number, limit: number): JournalPage {
  const trimmed = trimmedOf(job)
  const first = Math.max(after, trimmed)
  const events = job.events.slice(first, first + limit).map(toEvent)
  return { events, trimmed, more: first + events.length < job.events.length }
}

export function handOver(job: ModelJob): void {
  if (job.pending) return
  const [seq] = wantedAfter(job, job.delivered)
  if (seq === undefined) return
  const open = toEvent(job.events[seq - 1] ?? '').type === 'job.progress'
  job.pending = { seq, generation: job.generation, open }
}

/** What a claim may bring. */
export function claimable({ pending, ...job }: ModelJob): number[] {
  if (!pending) return []
  return pending.open ? [pending.seq, ...wantedAfter({ ...job, pending }, pending.seq - 1)] : [pending.seq]
}

export function settle(job: ModelJob, { seq }: Delivery): void {
  Object.assign(job, { delivered: seq, pending: null })
  handOver(job)
}

/** The first event that is wanted; where that is progress, also what progress follows it. */
function wantedAfter(job: ModelJob, delivered: number): number[] {
  const after = Math.max(delivered, trimmedOf(job))
  const seqs: number[] = []
  for (const [index, event] of job.events.entries()) {
    if (index < after || !isFor(job, event)) continue
    const isProgress = toEvent(event).type === 'job.progress'
    if (seqs.length > 0 && !isProgress) break
    seqs.push(index + 1)
    if (!isProgress) break
  }
  return seqs
}

export function setCallback(job: ModelJob, callback: Callback, after: number): void {
  Object.assign(job, { callback, delivered: after, generation: job.generation + 1, pending: null })
  handOver(job)
}

/** What a collector that has read these outcomes would apply, were the jobs as the model has them. */
export function changesOf(model: Model, told: readonly { id: string; outcome: Outcome }[]): Change[] {
  return [...new Set(told.map(({ id }) => id))].flatMap((id) => {
    const job = model.jobs.get(id)
    if (!job) return []
    const draft = draftOf(job)
    for (const each of told) if (each.id === id) advance(draft, each.outcome, draft.record.updatedAt)
    return draft.touched ? [changeOf(draft)] : []
  })
}

export function trimmedOf({ events, record }: ModelJob): number {
  return Math.max(0, events.length - record.journalLimit)
}

export function jobOf({ jobs }: Model, id: string): ModelJob {
  const job = jobs.get(id)
  if (!job) throw new Error(`Expected the model to have job ${id}, got none`)
  return job
}

/** Progress is not handed over while something is under way: it goes with what follows. */
function joins(job: ModelJob, event: string): boolean {
  return job.pending !== null && toEvent(event).type === 'job.progress'
}

function isFor({ callback }: ModelJob, event: string): boolean {
  const { type, terminal } = toEvent(event)
  return callback !== null && (callback.events?.some((each) => each === '*' || each === type) ?? terminal)
}

function idsOf(changes: readonly Change[]): string[] {
  return changes.map(({ record }) => record.id)
}

export function isEnded({ record }: ModelJob): boolean {
  return isTerminal(record.status)
}
