import type { ProblemObject } from './errors.ts'

/** The statuses of a job, docs/PROTOCOL.md "The job". The last four are terminal and never change. */
export type JobStatus = 'queued' | 'running' | 'canceling' | TerminalStatus
export type TerminalStatus = 'completed' | 'failed' | 'canceled' | 'expired'

export const jobStatuses = [
  'queued',
  'running',
  'canceling',
  'completed',
  'failed',
  'canceled',
  'expired',
] as const satisfies readonly JobStatus[]

/** The types of events, docs/PROTOCOL.md "The event". */
export const eventTypes = [
  'job.queued',
  'step.started',
  'job.progress',
  'step.retrying',
  'step.completed',
  'job.canceling',
  'job.completed',
  'job.failed',
  'job.canceled',
  'job.expired',
] as const
export type EventType = (typeof eventTypes)[number] | 'job.snapshot'

export function isTerminal(status: JobStatus): status is TerminalStatus {
  return status === 'completed' || status === 'failed' || status === 'canceled' || status === 'expired'
}

/** Whether an id is one that the gateway issued: a lower-case UUIDv7 (RFC 9562). Other BullMQ jobs are not ours. */
export function isCorrelationId(id: string): boolean {
  return /^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/.test(id)
}

/** The body of POST /jobs and of the WebSocket's `submit`. */
export interface JobRequest {
  readonly type: string
  readonly input?: unknown
  readonly callback_url?: string
  readonly callback_events?: readonly string[]
  readonly priority?: number
  readonly delay_ms?: number
  readonly deadline_ms?: number
  readonly metadata?: Readonly<Record<string, string>>
}

/** How many jobs a batch may have. */
const MAX_BATCH = 1_000

/** The body of POST /jobs/batch. */
export interface BatchRequest {
  /** Each a {@link JobRequest}, and maybe an `idempotency_key`. */
  readonly jobs: readonly unknown[]
}

/** The body of PUT /jobs/{id}/callback. */
export interface CallbackRequest {
  readonly callback_url: string
  readonly callback_events?: readonly string[]
  readonly after?: number
}

/** The longest that a job token lasts, and as long as it does if nothing is said. Seconds. */
export const MAX_TOKEN_TTL_S = 900

/** The body of POST /jobs/{id}/tokens; none is needed. */
export interface TokenRequest {
  readonly ttl_s?: number
}

const callbackUrl = {
  description: 'The return address: where events are delivered to.',
  type: 'string',
  minLength: 1,
  maxLength: 2048,
}
// Sizes are judged before contents here, or a huge list would be answered with a huger one of its faults.
const maxCallbackEvents = { maxItems: eventTypes.length + 1 }
const callbackEvents = {
  description: 'Which events are delivered there; the terminal one without it.',
  type: 'array',
  minItems: 1,
  if: maxCallbackEvents,
  // oxlint-disable-next-line unicorn/no-thenable -- a keyword of JSON Schema
  then: { items: { enum: ['*', ...eventTypes] } },
  else: maxCallbackEvents,
}
const maxMetadata = { maxProperties: 50 }

/** JSON Schema 2020-12 of {@link JobRequest}; the type's own schema judges `input`. */
export const jobRequestSchema = {
  type: 'object',
  required: ['type'],
  additionalProperties: false,
  properties: {
    type: { description: 'The name of a job type.', type: 'string' },
    input: { description: 'What the first step is given; null without it.' },
    callback_url: callbackUrl,
    callback_events: callbackEvents,
    // BullMQ's range.
    priority: {
      description: '1 is served first; jobs with none, or 0, go before all that have one.',
      type: 'integer',
      minimum: 0,
      maximum: 2_097_151,
    },
    delay_ms: {
      description: 'No worker gets the job before that time has passed.',
      type: 'integer',
      minimum: 0,
      maximum: 31_536_000_000,
    },
    deadline_ms: {
      description: 'The job is expired if it has not ended by then.',
      type: 'integer',
      minimum: 1,
      maximum: 31_536_000_000,
    },
    metadata: {
      description: 'Comes back in the job; no worker sees it.',
      type: 'object',
      if: maxMetadata,
      // oxlint-disable-next-line unicorn/no-thenable -- a keyword of JSON Schema
      then: {
        propertyNames: { minLength: 1, maxLength: 64 },
        additionalProperties: { type: 'string', maxLength: 512 },
      },
      else: maxMetadata,
    },
  },
} as const

/** JSON Schema 2020-12 of {@link BatchRequest}; each job is judged by itself. */
export const batchRequestSchema = {
  type: 'object',
  required: ['jobs'],
  additionalProperties: false,
  properties: { jobs: { type: 'array', minItems: 1, maxItems: MAX_BATCH } },
} as const

/** JSON Schema 2020-12 of {@link CallbackRequest}. */
export const callbackRequestSchema = {
  type: 'object',
  required: ['callback_url'],
  additionalProperties: false,
  properties: {
    callback_url: callbackUrl,
    callback_events: callbackEvents,
    after: { description: 'Up to which seq events count as delivered.', type: 'integer', minimum: 0 },
  },
} as const

/** JSON Schema 2020-12 of {@link TokenRequest}. */
export const tokenRequestSchema = {
  type: 'object',
  additionalProperties: false,
  properties: {
    ttl_s: {
      description: 'How long the token lasts, in seconds.',
      type: 'integer',
      minimum: 1,
      maximum: MAX_TOKEN_TTL_S,
    },
  },
} as const

/** The body of POST /deliveries/redeliver. */
export interface RedeliverRequest {
  readonly origin: string
  /** RFC 3339. */
  readonly since?: string
}

/** JSON Schema 2020-12 of {@link RedeliverRequest}. */
export const redeliverRequestSchema = {
  type: 'object',
  required: ['origin'],
  additionalProperties: false,
  properties: {
    origin: {
      description: 'Scheme, host and port of the receiver.',
      type: 'string',
      minLength: 1,
      maxLength: 2048,
    },
    since: { description: 'Only what died since then.', type: 'string', format: 'date-time' },
  },
} as const

/**
 * A job as the gateway keeps it. Times are milliseconds since the epoch.
 * The result is not in it: it lives once, in the journal's terminal event.
 */
export interface JobRecord {
  readonly id: string
  readonly tenant: string
  readonly type: string
  /** The queues of its steps, fixed when it was accepted. */
  readonly route: readonly string[]
  readonly status: JobStatus
  /** The step it is at, an index into `route`. */
  readonly step: number
  /** Attempts begun at this step. */
  readonly attempt: number
  /** Whether a worker has it, as far as the result queue has told. */
  readonly active: boolean
  /** How it is to end when it comes out of its queue without an outcome: somebody asked, or its time is over. */
  readonly ending: 'canceled' | 'expired' | null
  readonly progress: { readonly percent?: number; readonly message?: string } | null
  readonly error: ProblemObject | null
  readonly seq: number
  readonly metadata: Readonly<Record<string, string>>
  readonly priority: number
  readonly createdAt: number
  /** When its first step may begin. */
  readonly notBefore: number
  readonly startedAt: number | null
  readonly updatedAt: number
  readonly finishedAt: number | null
  readonly expiresAt: number | null
  readonly deadlineAt: number
  readonly retentionMs: number
  readonly journalLimit: number
}

/** One journal entry: `text` is the envelope's JSON, the same bytes in all four modes. */
export interface JobEvent {
  readonly seq: number
  readonly type: EventType
  readonly terminal: boolean
  readonly text: string
}

const head = /^\{"seq":(\d+),"type":"([a-z.]+)"/

/** Reads an envelope's head without parsing its payload. Throws when the text is not an envelope of ours. */
export function toEvent(text: string): JobEvent {
  const match = head.exec(text)
  if (!match) throw new Error(`Expected an event envelope, got ${text.slice(0, 80)}`)
  const type = match[2] as EventType
  return { seq: Number(match[1]), type, terminal: isTerminal(type.slice(4) as JobStatus), text }
}
