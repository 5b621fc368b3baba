import { setImmediate as turn } from 'node:timers/promises'
import type { FastifyBaseLogger } from 'fastify'
import type { Identity } from './access/identity.ts'
import type { Backlogs } from './backlog.ts'
import type { Catalog } from './catalog.ts'
import { createCheckRequest, type Checked, type JudgeCallback } from './check-request.ts'
import { Problem } from './errors.ts'
import type { FollowUps } from './follow-up.ts'
import { dataOf } from './job.ts'
import type { KnownJobs } from './known-jobs.ts'
import { toEvent, type JobEvent } from './messages.ts'
import type { Metrics } from './metrics.ts'
import { createMakeJob } from './new-job.ts'
import type { Queues } from './queues.ts'
import type { Addition } from './store/redis/bullmq.ts'
import type { Intake } from './store/redis/intake.ts'
import type { Accepted, JobView, NewJob, Store } from './store/store.ts'

/** How many requests of one batch are judged before others have their turn. */
const SLICE = 50

export interface SubmitParts {
  readonly store: Store
  readonly queues: Queues
  readonly catalog: Catalog
  readonly followUps: FollowUps
  readonly log: FastifyBaseLogger
  readonly judgeCallback: JudgeCallback
  readonly backlogs: Backlogs
  readonly metrics: Pick<Metrics, 'accepted' | 'refused'>
  /** Null where nothing is collected from the queues. */
  readonly knownJobs: KnownJobs | null
  /** Null where the store and the queues are not in one Redis: then they are written one after the other. */
  readonly intake: Intake | null
}

export interface Submitted {
  readonly job: JobView
  /** An earlier request with the same idempotency key and body made this job. */
  readonly replayed: boolean
  /** The job's first event; null for a job that was there before, which may be further. */
  readonly first: JobEvent | null
}

/** Whoever submits, as far as it matters here. */
type Submitter = Pick<Identity, 'id' | 'tenant' | 'types'>

/** Accepts jobs: validates the requests, stores the jobs and puts them into their first queues. */
export interface Submit {
  /**
   * When it resolves, the job is a promise (invariant 1).
   *
   * @param body the parsed JSON of the request
   * @param idempotencyKey as the client sent it
   * @param isFollowed whether whoever asks is about to follow the job: false without it
   * @throws Problem `type_not_allowed`, `invalid` with every violation, `malformed_request`, `idempotency_mismatch`,
   *   `queue_full`, `too_many_waiting`; the driver's error when the store is away
   */
  one(
    submitter: Submitter,
    body: unknown,
    idempotencyKey: string | null,
    isFollowed?: boolean,
  ): Promise<Submitted>
  /**
   * Each as if it came alone, in this order: in one go to the store and to each queue.
   * @returns what became of each
   */
  many(submitter: Submitter, requests: readonly Requested[]): Promise<PromiseSettledResult<Submitted>[]>
}

/** What one item of a batch asks for. */
export interface Requested {
  readonly body: unknown
  readonly idempotencyKey: string | null
}

export function createSubmit(parts: SubmitParts): Submit {
  const { store, queues, catalog, followUps, log, judgeCallback, backlogs, metrics, intake } = parts
  const check = createCheckRequest(catalog)
  const makeJob = createMakeJob(store.now)

  return {
    async one(submitter, body, idempotencyKey, isFollowed = false) {
      demandKey(idempotencyKey)
      const checked = await check(submitter, body, judgeCallback)
      return accept(submitter, checked, idempotencyKey, isFollowed)
    },

    async many(submitter, requests) {
      const judge = askOnce(judgeCallback)
      const checking: Promise<PromiseSettledResult<Checked>>[] = []
      for (const { body, idempotencyKey } of requests) {
        if (checking.length % SLICE === SLICE - 1) await turn()
        checking.push(
          settled(async () => {
            demandKey(idempotencyKey)
            return check(submitter, body, judge)
          }),
        )
      }
      const all = await Promise.all(checking)
      // From here on all go within one turn of the loop, which keeps them together and in order.
      return Promise.all(
        all.map(async (checked, index) =>
          checked.status === 'rejected'
            ? checked
            : settled(() => accept(submitter, checked.value, requests[index]?.idempotencyKey ?? null)),
        ),
      )
    },
  }

  async function accept(
    { id: by, tenant }: Submitter,
    checked: Checked,
    idempotencyKey: string | null,
    isFollowed = false,
  ): Promise<Submitted> {
    const job = { ...makeJob(tenant, checked, idempotencyKey), isFollowed }
    const addition = intake && queues.additionOf(job.record)
    const submitted = await (intake && addition ? acceptAtOnce(intake, job, addition) : acceptFirst(job))
    const { type } = job.record
    if (!submitted.replayed) metrics.accepted.inc({ type })
    log.debug({ job_id: submitted.job.record.id, tenant, type, by }, 'a job was accepted')
    return submitted
  }

  /** The store and the first queue in one step. A call that was cut off may have done it all the same. */
  async function acceptAtOnce(intake: Intake, job: NewJob, addition: Addition): Promise<Submitted> {
    try {
      const accepted = await intake(job, addition)
      if (accepted.status === 'duplicate') return await replay(job.record.tenant, accepted.id)
      if (accepted.status !== 'accepted') throw refusal(job, accepted)
    } catch (error) {
      // Not waited for: a Redis that hangs has cost the client one timeout already.
      if (job.idempotency === null && !(error instanceof Problem)) void undo(job)
      throw error
    }
    return promised(job)
  }

  /**
   * The store's answer comes first: a second request with a key must not put a second job into the queue, nor one that
   * is refused for want of room a first. If the queue cannot be reached then, a job with a key stays: somebody may hold
   * a 202 for it by the same key, and a retry or the watchdog goes on with it.
   */
  async function acceptFirst(job: NewJob): Promise<Submitted> {
    let mayBeEnqueued = false
    try {
      const accepted = await store.accept(job)
      if (accepted.status === 'duplicate') return await replay(job.record.tenant, accepted.id)
      if (accepted.status !== 'accepted') throw refusal(job, accepted)
      mayBeEnqueued = true
      await queues.enqueue(job.record, job.input)
    } catch (error) {
      if (job.idempotency === null && !(error instanceof Problem)) void undo(job, mayBeEnqueued)
      throw error
    }
    return promised(job)
  }

  function refusal(job: NewJob, accepted: Accepted): Problem {
    const { type, tenant } = job.record
    if (accepted.status === 'full') {
      metrics.refused.inc({ type })
      const retryAfterS = backlogs.retryAfterS(type)
      return new Problem('queue_full', `${job.maxWaiting} jobs of the type ${type} wait already`, {
        retryAfterS,
      })
    }
    if (accepted.status === 'tenant_full') {
      metrics.refused.inc({ type })
      const most = job.maxWaitingPerTenant ?? 0
      const retryAfterS = backlogs.retryAfterS(type, { tenant, waiting: most })
      const detail = `${most} of your jobs of the type ${type} wait already`
      return new Problem('too_many_waiting', detail, { retryAfterS })
    }
    const owner = 'id' in accepted ? accepted.id : ''
    return new Problem('idempotency_mismatch', `The key belongs to job ${owner}, made by another request`)
  }

  function promised({ record, callback, event }: NewJob): Submitted {
    if (!parts.knownJobs?.get(record.id)) parts.knownJobs?.put({ record, version: 1, input: null })
    const isHeard = callback?.events?.some((type) => type === '*' || type === 'job.queued') ?? false
    if (isHeard) void followUps([], [record.id], record.tenant)
    return { job: { record, text: dataOf(event) }, replayed: false, first: toEvent(event) }
  }

  /** The first job again; if its request was cut off before the queue had it, this one finishes that. */
  async function replay(tenant: string, id: string): Promise<Submitted> {
    const [[stored], job] = await Promise.all([store.load([id]), store.get(tenant, id)])
    if (!stored || !job) throw new Problem('not_found', `Job ${id} has just been removed; try again`)
    if (stored.record.seq === 1 && stored.input !== null) await queues.enqueue(stored.record, stored.input)
    return { job, replayed: true, first: null }
  }

  /** Nobody was promised this job. If a worker has it all the same, or Redis is away, it takes its course. */
  async function undo({ record }: NewJob, mayBeEnqueued = true): Promise<void> {
    try {
      const isOut = !mayBeEnqueued || (await queues.remove(record.route[0] ?? '', record.id))
      if (isOut) await store.withdraw(record)
    } catch (err) {
      log.debug({ err, job_id: record.id, tenant: record.tenant }, 'a refused job could not be withdrawn')
    }
  }
}

function demandKey(idempotencyKey: string | null): void {
  if (idempotencyKey === null || /^[\x21-\x7e ]{1,255}$/.test(idempotencyKey)) return
  throw new Problem('malformed_request', 'Expected an idempotency key of 1 to 255 printable ASCII characters')
}

/** What judges an address, asked once for each, however many jobs are to be told of there. */
function askOnce(judgeCallback: JudgeCallback): JudgeCallback {
  const asked = new Map<string, Promise<string | null>>()
  return (tenant, url) => {
    const verdict = asked.get(url) ?? judgeCallback(tenant, url)
    asked.set(url, verdict)
    return verdict
  }
}

async function settled<T>(task: () => Promise<T>): Promise<PromiseSettledResult<T>> {
  try {
    return { status: 'fulfilled', value: await task() }
  } catch (reason) {
    return { status: 'rejected', reason }
  }
}
