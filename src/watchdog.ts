import { setTimeout as delay } from 'node:timers/promises'
import type { FastifyBaseLogger } from 'fastify'
import type { Outcome } from './advance.ts'
import { append } from './append.ts'
import type { BoundOutcome } from './bound-outcome.ts'
import { endEarly, type CancelParts } from './cancel.ts'
import { isCollected } from './collect.ts'
import type { HandOver } from './follow-up.ts'
import { isTerminal, type JobRecord } from './messages.ts'
import type { Metrics } from './metrics.ts'
import type { Queues, QueueTruth } from './queues.ts'
import { toReason } from './outcomes.ts'
import type { ResultQueue } from './result-queue.ts'
import type { Stored } from './store/store.ts'

const TICK_MS = 1_000
const BATCH = 50
/** Between full batches, so that thousands that come due at once hold up nothing else of this process. */
const BREATH_MS = 20
/** How long one look at a job may take before another node may look too. */
const CLAIM_MS = 15_000
const CATCH_UP_MS = 3_000
const SHORT_MS = 2_000
const LONGEST_MS = 600_000
/** A job that a worker has is looked at more often: the last worker of a queue is missed by nobody else. */
const LONGEST_ACTIVE_MS = 60_000

export interface WatchdogParts extends CancelParts {
  readonly resultsOf: (queue: string) => ResultQueue
  readonly handOver: HandOver
  readonly boundOutcome: BoundOutcome
  readonly metrics: Pick<Metrics, 'repairs'>
  readonly log: FastifyBaseLogger
}

/**
 * The one repair mechanism. Every job has a due time that each of its events moves on; past it, the record is compared
 * with BullMQ's truth, and what a crash swallowed is done again (invariant 1). Any number of nodes may watch.
 */
export async function watch(parts: WatchdogParts, signal: AbortSignal): Promise<void> {
  const { store, log } = parts
  while (!signal.aborted) {
    let found = 0
    try {
      const ids = await store.overdue(store.now(), BATCH, CLAIM_MS)
      found = ids.length
      const jobs = found > 0 ? await store.load(ids) : []
      await Promise.all(ids.map((id, index) => look(parts, id, jobs[index] ?? null)))
    } catch (err) {
      if (!signal.aborted) log.warn({ err }, 'the watchdog cannot see')
    }
    const pauseMs = found < BATCH ? TICK_MS : BREATH_MS
    await delay(pauseMs, undefined, { signal }).catch(() => undefined)
  }
}

async function look(parts: WatchdogParts, id: string, job: Stored | null): Promise<void> {
  const { store, log } = parts
  try {
    if (!job) return void (await store.forget('', id))
    if (isTerminal(job.record.status)) return await settle(parts, job.record)
    await reconcile(parts, job)
  } catch (err) {
    log.warn({ err, job_id: id, tenant: job?.record.tenant }, 'a job could not be checked; it stays due')
  }
}

/** An ended job: its return address has heard of it, or will; then its time comes to be forgotten. */
async function settle({ store, handOver }: WatchdogParts, record: JobRecord): Promise<void> {
  let callback = await store.deliveries.callback(record.id)
  if (callback && !callback.pending) {
    await handOver(record.id)
    callback = await store.deliveries.callback(record.id)
  }
  const now = store.now()
  // What is in the callback queue stays there until it is settled; this job has to stay as long.
  if (callback?.pending || callback?.isRedelivering)
    return store.postpone(record.id, Math.round(now + patience(record, now) * (1 + Math.random())))
  // With a dead letter it stays for as long as that can be delivered after all.
  const expiresAt = Math.max(record.expiresAt ?? record.updatedAt, callback?.keptUntil ?? 0)
  // If it stays after all, it is due again soon.
  if (now >= expiresAt) return void (await store.forget(record.tenant, record.id, 'delivered'))
  return store.postpone(record.id, expiresAt)
}

/** Compares an unfinished job with what BullMQ says of it, and repairs the difference. */
async function reconcile(parts: WatchdogParts, job: Stored): Promise<void> {
  const { store, queues, resultsOf, handOver, metrics, log } = parts
  const { record } = job
  const { id } = record
  const queue = record.route[record.step] ?? ''
  const truth = await queues.truth(queue, id)
  const newest = await resultsOf(queue).newest()
  // Only once everything that led to this truth is in the journal can a difference be a fault. Past its deadline a job
  // waits for nobody: its queue may be one that nobody collects from any more.
  if (store.now() < record.deadlineAt && !(await isCollected(store, queue, newest, CATCH_UP_MS))) {
    return store.postpone(id, store.now() + SHORT_MS)
  }
  const [current] = await store.load([id])
  if (current?.version !== job.version) return

  await handOver(id)
  const verdict = judge(job, truth, {
    queue,
    isAbandoned: await isAbandoned(queues, queue, truth),
    now: store.now(),
  })
  if (verdict !== 'healthy' && verdict !== 'end') {
    const kind = typeof verdict === 'string' ? verdict : verdict.kind
    metrics.repairs.inc({ verdict: kind })
    // Not the whole truth, in which is what the job came to.
    const { tenant } = record
    log.warn({ job_id: id, tenant, queue, state: truth.state, verdict: kind }, 'repairing a job')
  }
  if (verdict === 'enqueue') {
    await queues.enqueue(record, job.input ?? 'null')
  } else if (verdict === 'recover') {
    return recover(parts, queue, id)
  } else if (verdict === 'end') {
    await endEarly(parts, id, record.ending ?? 'expired', { force: store.now() >= record.deadlineAt })
  } else if (verdict === 'healthy') {
    // What waited for its delay may have come due without anybody hearing of it.
    if (truth.state === 'prioritized') await queues.takeTurn(record)
  } else {
    const outcome = parts.boundOutcome(id, verdict)
    const after = await append(parts, id, ({ version }) => (version === job.version ? outcome : null))
    // Doomed in its queue: a worker that comes now, or has come already, fails it and is not heard.
    if (truth.state === 'waiting' && after && isTerminal(after.status)) await queues.remove(queue, id)
    return
  }
  const at = store.now()
  const next = Math.max(at + SHORT_MS, Math.min(at + patience(record, at), record.deadlineAt))
  await store.postpone(id, next)
}

/** Whether a job needs a worker to notice that it lost its own, or that it is to fail, and there is none. */
async function isAbandoned(queues: Queues, queue: string, truth: QueueTruth): Promise<boolean> {
  const isLost = truth.state === 'active' && !truth.isLocked
  const isDoomed = truth.state === 'waiting' && truth.deferredFailure !== null
  return (isLost || isDoomed) && !(await queues.hasWorkers(queue))
}

/** Does the check that workers do for each other: the job goes back into its queue, which tells of it. */
async function recover(
  { store, queues, resultsOf }: WatchdogParts,
  queue: string,
  id: string,
): Promise<void> {
  await queues.recoverStalled(queue)
  // Being told of puts a job off; what is to become of this one is to be seen soon.
  await isCollected(store, queue, await resultsOf(queue).newest(), CATCH_UP_MS)
  await store.postpone(id, store.now() + SHORT_MS)
}

function judge(
  { record, input }: Stored,
  truth: QueueTruth,
  { queue, isAbandoned, now }: { queue: string; isAbandoned: boolean; now: number },
): Outcome | 'enqueue' | 'end' | 'recover' | 'healthy' {
  switch (truth.state) {
    case 'completed':
      return { kind: 'completed', queue, result: truth.result ?? 'null' }
    case 'failed':
      return { kind: 'failed', queue, reason: toReason(truth.failedReason ?? '') }
    case 'unknown':
      if (record.ending) return { kind: 'ended', ending: record.ending }
      if (now >= record.deadlineAt) return 'end'
      if (input !== null) return 'enqueue'
      return { kind: 'lost', detail: `The queue ${queue} no longer has the job, and never told how it ended` }
    default:
      if (now >= record.deadlineAt) return 'end'
      // Under a worker a canceled job is to be waited for; in a queue it has come back, or was put there late.
      if (record.ending && (truth.state !== 'active' || record.status !== 'canceling')) return 'end'
      if (!isAbandoned) return 'healthy'
      if (truth.state === 'active') return 'recover'
      return { kind: 'failed', queue, reason: toReason(truth.deferredFailure ?? '') }
  }
}

/** The longer nothing has happened, the more rarely it is looked at. */
function patience({ updatedAt, active }: JobRecord, now: number): number {
  const longest = active ? LONGEST_ACTIVE_MS : LONGEST_MS
  return Math.min(Math.max(now - updatedAt, 15_000), longest)
}
