import { createHash, randomBytes, randomInt } from 'node:crypto'
import { v7 as uuidv7 } from 'uuid'
import type { Checked } from './check-request.ts'
import { invalid } from './errors.ts'
import { eventText, jobText } from './job.ts'
import type { JobRecord, JobRequest } from './messages.ts'
import type { NewJob } from './store/store.ts'

const IDEMPOTENCY_KEEP_MS = 86_400_000

/** Makes the job that is asked for, with the next id. @throws Problem `invalid` if its input cannot be written */
export type MakeJob = (tenant: string, checked: Checked, idempotencyKey: string | null) => NewJob

/** @param now milliseconds since the epoch, by the store's clock */
export function createMakeJob(now: () => number): MakeJob {
  const nextId = createIds()
  return (tenant, checked, idempotencyKey) => {
    const at = now()
    return toNewJob(tenant, checked, idempotencyKey, { id: nextId(at), now: at })
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
  { request, type }: Checked,
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
    maxWaitingPerTenant: type.maxWaitingPerTenant,
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
