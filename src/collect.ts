import { setTimeout as delay } from 'node:timers/promises'
import type { FastifyBaseLogger } from 'fastify'
import { advance, changeOf, draftOf, type Draft } from './advance.ts'
import type { BoundOutcome } from './bound-outcome.ts'
import type { Deciding } from './follow-up.ts'
import type { KnownJobs } from './known-jobs.ts'
import type { Membership } from './membership.ts'
import { isCorrelationId, isTerminal, type JobRecord } from './messages.ts'
import type { Metrics } from './metrics.ts'
import type { Queues } from './queues.ts'
import { compareIds, type ResultEntry, type ResultQueue } from './result-queue.ts'
import { toOutcomes, type Told } from './outcomes.ts'
import type { Fence, Stored } from './store/store.ts'

/** Entries read at a time: a backlog costs bounded memory. */
const BATCH = 500
const BLOCK_MS = 1_000
/**
 * Once so many come at a time, more are waited for: larger batches cost less each, and the step from started to completed
 * is often one write. Whoever is alone waits for nobody.
 */
const CROWD = 32
const GATHER_MS = 8
/** Progress, which somebody may be watching, is left to gather only where it comes faster than anybody could watch. */
const RAPID_MS = 4
const PROGRESS_GATHER_MS = 1
/** So long is a job that has just been started given to be over: then both are one write. */
const SETTLE_MS = 3
const LEASE_MS = 3_000
const RENEW_MS = 1_000
const TRIM_MS = 10_000
const RETRY_MS = 500

export interface CollectorParts extends Deciding {
  /** The queue's name: the source whose cursor the store keeps. */
  readonly queue: string
  readonly results: ResultQueue
  readonly queues: Queues
  readonly knownJobs: KnownJobs
  readonly boundOutcome: BoundOutcome
  /** This process's name in leases. */
  readonly owner: string
  readonly membership: Pick<Membership, 'collects'>
  readonly metrics: Pick<Metrics, 'collecting' | 'cuts' | 'results'>
  readonly log: FastifyBaseLogger
}

/**
 * Brings one step's results from its result queue into the journals. Any number of nodes may do it for the same queue:
 * they share the queues out, a lease lets one of them read at a time, and the store refuses what does not follow its
 * cursor (invariant 5).
 *
 * @param signal ends it; the batch under way is finished first
 */
export async function collect(parts: CollectorParts, signal: AbortSignal): Promise<void> {
  const { store, queue, owner, membership, metrics, log } = parts
  let wasFailing = false
  while (!signal.aborted) {
    try {
      if (membership.collects(queue) && (await store.lease(queue, owner, LEASE_MS))) {
        metrics.collecting.set({ queue }, 1)
        await consume(parts, signal)
        await store.release(queue, owner)
      } else {
        await delay(RETRY_MS, undefined, { signal })
      }
      if (wasFailing) log.info({ queue }, 'collecting again')
      wasFailing = false
    } catch (err) {
      if (signal.aborted) break
      if (!wasFailing) log.warn({ err, queue }, 'collecting stopped; trying again')
      wasFailing = true
      await delay(RETRY_MS, undefined, { signal }).catch(() => undefined)
    } finally {
      metrics.collecting.set({ queue }, 0)
    }
  }
  // If Redis is away the lease runs out by itself.
  await store.release(queue, owner).catch(() => undefined)
}

/** Reads and applies for as long as the queue and its lease are ours, and the cursor is where we left it. */
async function consume(parts: CollectorParts, signal: AbortSignal): Promise<void> {
  const { store, queue, owner, results, boundOutcome, membership, metrics } = parts
  let committed = await store.cursor(queue)
  let position = committed
  let renewAt = Date.now() + RENEW_MS
  let trimAt = Date.now() + TRIM_MS
  let progressAt = 0
  await suspectCut(parts, position)

  while (!signal.aborted) {
    const entries = await readOn(results, position)
    if (entries.length === BATCH) await suspectCut(parts, position)
    await giveTurns(parts, entries)
    const { told: all, last } = await toOutcomes(queue, results, entries, entries.length === BATCH)
    const told = all.map((each) => ({ ...each, outcome: boundOutcome(each.id, each.outcome) }))
    const to = last ?? position
    // Entries that change nothing need no write of their own, but the cursor follows within a second or two.
    const isDue = to !== committed && (entries.length === 0 || Date.now() >= renewAt)
    if (to !== null && (told.length > 0 || isDue)) {
      const outcome = await applyAll(parts, { source: queue, from: committed, to }, told, isDue)
      if (outcome === 'fenced') return
      if (outcome === 'applied') {
        committed = to
        metrics.results.inc({ queue }, told.length)
      }
    }
    position = to
    if (entries.some(isProgress)) {
      if (Date.now() - progressAt < RAPID_MS) await delay(PROGRESS_GATHER_MS)
      progressAt = Date.now()
    } else if (entries.length >= CROWD && entries.length < BATCH) {
      await delay(GATHER_MS)
    }
    if (Date.now() >= renewAt) {
      if (!membership.collects(queue) || !(await store.lease(queue, owner, LEASE_MS))) return
      renewAt = Date.now() + RENEW_MS
    }
    if (committed !== null && Date.now() >= trimAt) {
      const isMore = await results.trim(committed, (ids) => dropCopies(parts, ids))
      trimAt = isMore ? 0 : Date.now() + TRIM_MS
    }
  }
}

/** Jobs that have waited for their delay, where tenants take turns. */
async function giveTurns(
  { store, queues, queue }: CollectorParts,
  entries: readonly ResultEntry[],
): Promise<void> {
  if (!queues.isInTurns(queue)) return
  const due = entries.filter(({ event, fields }) => event === 'waiting' && fields['prev'] === 'delayed')
  const ids = due.map(({ jobId }) => jobId).filter(isCorrelationId)
  const jobs = ids.length > 0 ? await store.load(ids) : []
  const records = jobs.flatMap((job) => (job ? [job.record] : []))
  const isAtIt = ({ route, step, attempt }: JobRecord) => route[step] === queue && attempt === 0
  await Promise.all(records.filter(isAtIt).map((record) => queues.takeTurn(record)))
}

function isProgress({ event }: ResultEntry): boolean {
  return event === 'progress'
}

/** What comes next, waited for; and what follows at once, where that is all but certain to be more. */
async function readOn(results: ResultQueue, position: string | null): Promise<ResultEntry[]> {
  const entries = await results.read(position, BATCH, BLOCK_MS)
  const last = entries.at(-1)
  const isBeginning = last?.event === 'active' && entries.length < CROWD
  const isAwaited = entries.some(
    ({ event }) => event === 'progress' || event === 'completed' || event === 'failed',
  )
  if (!isBeginning || isAwaited) return entries
  return [...entries, ...(await results.read(last.id, BATCH - entries.length, SETTLE_MS))]
}

/** Applies what was told, with the cursor; nothing if it changes nothing, unless the cursor is to be moved anyway. */
async function applyAll(
  parts: CollectorParts,
  fence: Fence,
  told: readonly Told[],
  moveCursor: boolean,
): Promise<'applied' | 'unchanged' | 'fenced'> {
  const { store, followUps, knownJobs, log } = parts
  for (;;) {
    const drafts = await draftAll(parts, told)
    const touched = drafts.filter((draft) => draft.touched)
    const over = drafts.filter((draft) => !draft.touched && draft.followUp.removeFrom !== null)
    if (touched.length === 0 && over.length === 0 && !moveCursor) return 'unchanged'
    const applied = await store.apply(fence, touched.map(changeOf))
    if (applied.status === 'conflict') {
      for (const id of applied.ids) knownJobs.drop(id)
      continue
    }
    if (applied.status === 'fenced') {
      log.info({ ...fence, cursor: applied.cursor }, 'another collector has moved the cursor')
      return 'fenced'
    }
    for (const { record, version } of touched) {
      if (isTerminal(record.status)) knownJobs.drop(record.id)
      else knownJobs.put({ record, version: version + 1, input: null })
    }
    await followUps([...touched, ...over], applied.callbacks)
    return 'applied'
  }
}

/** What becomes of the jobs that were told of: from what is known of them, where that has something happen to them. */
async function draftAll({ store, knownJobs }: CollectorParts, told: readonly Told[]): Promise<Draft[]> {
  const byJob = new Map<string, Told[]>()
  for (const each of told) {
    const others = byJob.get(each.id)
    if (others) others.push(each)
    else if (isCorrelationId(each.id)) byJob.set(each.id, [each])
  }
  const drafts: Draft[] = []
  const unknown: string[] = []
  for (const [id, outcomes] of byJob) {
    const known = knownJobs.get(id)
    const draft = known && advanceAll(known, outcomes)
    if (draft?.touched) drafts.push(draft)
    else unknown.push(id)
  }
  const stored = unknown.length > 0 ? await store.load(unknown) : []
  for (const job of stored) if (job) drafts.push(advanceAll(job, byJob.get(job.record.id) ?? []))
  return drafts
}

function advanceAll(job: Stored, outcomes: readonly Told[]): Draft {
  const draft = draftOf(job)
  for (const { outcome, at } of outcomes) advance(draft, outcome, at)
  return draft
}

/**
 * BullMQ's copies of jobs whose completion was applied a minute ago. By then nobody who saw the job before that can
 * still be about to enqueue it, which the copy would have made harmless; those left over go by their age.
 */
async function dropCopies({ store, queues, queue }: CollectorParts, told: readonly string[]): Promise<void> {
  const ids = told.filter(isCorrelationId)
  const jobs = ids.length > 0 ? await store.load(ids) : []
  // A job that is still at this step, against all odds, would take the removal for its end.
  const past = ids.filter((_, index) => {
    const record = jobs[index]?.record
    return !record || isTerminal(record.status) || record.route[record.step] !== queue
  })
  await Promise.all(past.map((id) => queues.remove(queue, id)))
}

/** What was cut before it was read is gone; BullMQ's own state of every unfinished job is not. */
async function suspectCut(
  { store, results, queue, metrics, log }: CollectorParts,
  cursor: string | null,
): Promise<void> {
  if (!(await results.wasCutPast(cursor))) return
  log.error({ queue, cursor }, 'the result queue was cut past the cursor; checking every unfinished job')
  metrics.cuts.inc({ queue })
  await store.suspectAll(store.now())
}

/** Whether everything that a queue had told by `newest` is in the journals; waits up to `waitMs` for that. */
export async function isCollected(
  store: CollectorParts['store'],
  queue: string,
  newest: string | null,
  waitMs: number,
): Promise<boolean> {
  for (const until = Date.now() + waitMs; ;) {
    const cursor = await store.cursor(queue)
    if (newest === null || (cursor !== null && compareIds(cursor, newest) >= 0)) return true
    if (Date.now() >= until) return false
    await delay(100)
  }
}
