import { createHash, randomBytes, randomInt } from 'node:crypto'
import { v7 as uuidv7 } from 'uuid'
import type { FastifyBaseLogger } from 'fastify'
import { demandType, type Identity } from './access/identity.ts'
import type { Backlogs } from './backlog.ts'
import { createAjv, toViolations, type Catalog, type JobType } from './catalog.ts'
import { invalid, Problem, type Violation } from './errors.ts'
import type { FollowUps } from './follow-up.ts'
import { dataOf, eventText, jobText } from './job.ts'
import type { KnownJobs } from './known-jobs.ts'
import { jobRequestSchema, toEvent, type JobEvent, type JobRecord, type JobRequest } from './messages.ts'
import type { Metrics } from './metrics.ts'
import type { Queues } from './queues.ts'
import type { Addition, Intake } from './store/redis/intake.ts'
import type { Accepted, JobView, NewJob, Store } from './store/store.ts'

const IDEMPOTENCY_KEEP_MS = 86_400_000

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

/** Why a tenant cannot use a `callback_url`, null if it can. */
export type JudgeCallback = (tenant: string, url: string) => Promise<string | null>

export interface Submitted {
  readonly job: JobView
  /** An earlier request with the same idempotency key and body made this job. */
  readonly replayed: boolean
  /** The job's first event; null for a job that was there before, which may be further. */
  readonly first: JobEvent | null
}

/**
 * Accepts a job: validates the request, stores the job and puts it into its first queue. When it resolves, the job is
 * a promise (invariant 1).
 *
 * @param body the parsed JSON of the request
 * @param idempotencyKey as the client sent it
 * @param isFollowed whether whoever asks is about to follow the job: false without it
 * @throws Problem `type_not_allowed`, `invalid` with every violation, `malformed_request`, `idempotency_mismatch`,
 *   `queue_full`; the driver's error when the store is away
 */
export type Submit = (
  identity: Pick<Identity, 'id' | 'tenant' | 'types'>,
  body: unknown,
  idempotencyKey: string | null,
  isFollowed?: boolean,
) => Promise<Submitted>

export function createSubmit(parts: SubmitParts): Submit {
  const { store, queues, catalog, followUps, log, judgeCallback, backlogs, metrics, intake } = parts
  const validate = createAjv().compile<JobRequest>(jobRequestSchema)
  const nextId = createIds()

  return async (identity, body, idempotencyKey, isFollowed = false) => {
    const { tenant } = identity
    if (idempotencyKey !== null && !/^[\x21-\x7e ]{1,255}$/.test(idempotencyKey)) {
      throw new Problem(
        'malformed_request',
        'Expected an Idempotency-Key of 1 to 255 printable ASCII characters',
      )
    }
    const { type: name } = (body ?? {}) as Partial<JobRequest>
    if (typeof name === 'string') demandType(identity, name)
    const { request, type } = await check(tenant, body)
    const now = store.now()
    const job = { ...toNewJob(tenant, request, type, idempotencyKey, { id: nextId(now), now }), isFollowed }
    const addition = intake && queues.additionOf(job.record)
    const submitted = await (intake && addition ? acceptAtOnce(intake, job, addition) : acceptFirst(job))
    if (!submitted.replayed) metrics.accepted.inc({ type: type.name })
    const { id: job_id } = submitted.job.record
    log.debug({ job_id, tenant, type: type.name, by: identity.id }, 'a job was accepted')
    return submitted
  }

  /** Every violation is reported, those of the envelope, of the input and of the return address together. */
  async function check(tenant: string, body: unknown): Promise<{ request: JobRequest; type: JobType }> {
    const violations: Violation[] = validate(body) ? [] : toViolations(validate.errors ?? [])
    const {
      type: name,
      input = null,
      callback_url: url,
      delay_ms,
      deadline_ms,
    } = (body ?? {}) as Partial<JobRequest>
    const type = typeof name === 'string' ? catalog.types.get(name) : undefined
    if (type) {
      violations.push(
        ...type.violations(input).map(({ path, message }) => ({ path: `/input${path}`, message })),
      )
    } else if (typeof name === 'string') {
      violations.push({ path: '/type', message: `must be one of ${[...catalog.types.keys()].join(', ')}` })
    }
    const areTimes = !violations.some(({ path }) => path === '/delay_ms' || path === '/deadline_ms')
    if (areTimes && deadline_ms !== undefined && deadline_ms <= (delay_ms ?? 0)) {
      violations.push({ path: '/deadline_ms', message: 'must be longer than delay_ms' })
    }
    if (typeof url === 'string') {
      const reason = await judgeCallback(tenant, url)
      if (reason !== null) violations.push({ path: '/callback_url', message: reason })
    }
    if (violations.length > 0 || !type) throw invalid(violations)
    return { request: body as JobRequest, type }
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

  function refusal({ record: { type }, maxWaiting }: NewJob, accepted: Accepted): Problem {
    if (accepted.status === 'full') {
      metrics.refused.inc({ type })
      const retryAfterS = backlogs.retryAfterS(type)
      return new Problem('queue_full', `${maxWaiting} jobs of the type ${type} wait already`, { retryAfterS })
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

/** Random bytes that are drawn at a time, and how many of them an id takes. */
const POOL_BYTES = 4_096
const ID_BYTES = 16

/** UUIDv7 by the store's clock, so that ids sort by creation, whichever node made them; within a node strictly. */
function createIds(): (now: number) => string {
  let msecs = 0
  let seq = 0
  let pool = Buffer.alloc(0)
  return (now) => {
    seq = now > msecs ? randomInt(2 ** 31) : seq + 1
    msecs = Math.max(msecs, now)
    if (pool.length < ID_BYTES) pool = randomBytes(POOL_BYTES)
    const random = pool.subarray(0, ID_BYTES)
    pool = pool.subarray(ID_BYTES)
    return uuidv7({ msecs, seq, random })
  }
}

function toNewJob(
  tenant: string,
  request: JobRequest,
  type: JobType,
  idempotencyKey: string | null,
  { id, now }: { readonly id: string; readonly now: number },
): NewJob {
  const delayMs = request.delay_ms ?? 0
  const record: JobRecord = {
    id,
    tenant,
    type: type.name,
    route: type.steps.map(({ queue }) => queue),
    status: 'queued',
    step: 0,
    attempt: 0,
    active: false,
    ending: null,
    progress: null,
    error: null,
    seq: 1,
    metadata: request.metadata ?? {},
    priority: request.priority ?? 0,
    createdAt: now,
    notBefore: now + delayMs,
    startedAt: null,
    updatedAt: now,
    finishedAt: null,
    expiresAt: null,
    deadlineAt: now + (request.deadline_ms ?? delayMs + type.deadlineMs),
    retentionMs: type.retentionMs,
    journalLimit: type.journalLimit,
  }
  const { callback_url: url, callback_events: events = null } = request
  return {
    record,
    event: eventText(record, 'job.queued', jobText(record)),
    input: serialize(request.input ?? null),
    callback: url === undefined ? null : { url, events },
    idempotency: idempotencyKey === null ? null : toIdempotency(idempotencyKey, request),
    maxWaiting: type.maxWaiting,
  }
}

/** JSON.parse reads deeper nesting than JSON.stringify writes. */
function serialize(input: unknown): string {
  try {
    return JSON.stringify(input)
  } catch (cause) {
    throw invalid([{ path: '/input', message: 'is nested too deeply' }], cause)
  }
}

function toIdempotency(key: string, request: JobRequest): NonNullable<NewJob['idempotency']> {
  const fingerprint = createHash('sha256').update(JSON.stringify(request)).digest('base64url')
  return { key, fingerprint, keepMs: IDEMPOTENCY_KEEP_MS }
}
