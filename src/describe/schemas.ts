import { problems } from '../errors.ts'
import { eventTypes, jobStatuses, type EventType } from '../messages.ts'
import { ref, type Schema } from './operation.ts'

/*
 * What the gateway sends. Nothing is validated or written by these: an answer is put together from text (job.ts), and
 * test/conformance/described.test.ts holds the answers against them. What it is sent is validated by the schemas of
 * messages.ts, which the documents show as they are.
 */

const problemCodes = Object.keys(problems)
/** The problems that are the `error` of a job, and never an answer: the table ends with them. */
const jobProblems = problemCodes.slice(problemCodes.indexOf('step_failed'))

export const seq = {
  type: 'integer',
  minimum: 0,
  description: 'The number of an event in its job’s journal.',
}
export const uuid = { type: 'string', format: 'uuid', description: 'The correlation identifier, a UUIDv7.' }
const time = { type: 'string', format: 'date-time' }
const orNull = (schema: { readonly type: string }) => ({ ...schema, type: [schema.type, 'null'] })
const count = { type: 'integer', minimum: 0 }
const text = { type: 'string' }

const object = (properties: Readonly<Record<string, Schema>>, optional: readonly string[] = []) => ({
  type: 'object',
  required: Object.keys(properties).filter((name) => !optional.includes(name)),
  properties,
})

const problem = object(
  {
    type: { type: 'string', pattern: '^urn:quartet:problem:[a-z_]+$' },
    title: text,
    status: { type: 'integer', minimum: 400, maximum: 599 },
    code: { enum: problemCodes, description: 'Stable, unlike the words.' },
    detail: text,
    errors: {
      description: 'With `invalid`: every violation, a hundred at most.',
      type: 'array',
      maxItems: 100,
      items: object({
        path: { type: 'string', description: 'A JSON Pointer into the body (RFC 6901).' },
        message: text,
      }),
    },
    retry_after: { type: 'integer', minimum: 0, description: 'Seconds, as in the header `Retry-After`.' },
  },
  ['detail', 'errors', 'retry_after'],
)

const jobError = {
  description: 'Why the job ended without a result.',
  ...object(
    {
      ...problem.properties,
      code: { enum: jobProblems },
      step: text,
      index: count,
      attempts: count,
      problem: { type: 'object', description: 'The problem object that the worker gave as its reason.' },
    },
    ['detail', 'errors', 'retry_after', 'step', 'index', 'attempts', 'problem'],
  ),
}

const job = object({
  job_id: uuid,
  type: text,
  status: { enum: jobStatuses },
  step: object({ name: text, index: count, count, attempt: count }),
  progress: {
    description: 'What the worker reported last in this attempt.',
    ...orNull(
      object({ percent: { type: 'number', minimum: 0, maximum: 100 }, message: text }, [
        'percent',
        'message',
      ]),
    ),
  },
  result: { description: 'What the worker of the last step returned, verbatim; null until then.' },
  error: { oneOf: [{ type: 'null' }, ref('JobError')] },
  seq,
  metadata: { type: 'object', additionalProperties: text },
  created_at: time,
  started_at: orNull(time),
  finished_at: orNull(time),
  expires_at: { ...orNull(time), description: 'From then on the job may be gone. Null until it has ended.' },
  links: object({ self: text, events: text, cancel: text }),
})

const progress = {
  ...object(
    {
      percent: { type: 'number', minimum: 0, maximum: 100 },
      message: text,
      output: true,
      omitted_bytes: { ...count, description: 'The size of a report that was too large; it comes alone.' },
    },
    ['percent', 'message', 'output', 'omitted_bytes'],
  ),
  minProperties: 1,
}
const ofStep = { step: text, index: count }

const eventData: Readonly<Record<EventType, Schema>> = {
  'job.queued': ref('Job'),
  'step.started': object({ ...ofStep, attempt: count }),
  'job.progress': progress,
  'step.retrying': object({ ...ofStep, attempt: count, reason: text, delay_ms: count }),
  'step.completed': object(ofStep),
  'job.canceling': object({}),
  'job.completed': ref('Job'),
  'job.failed': ref('Job'),
  'job.canceled': ref('Job'),
  'job.expired': ref('Job'),
  'job.snapshot': ref('Job'),
}

const envelope = (type: EventType) =>
  object({
    seq,
    type: { const: type },
    timestamp: time,
    job_id: uuid,
    status: { enum: jobStatuses },
    data: eventData[type],
    ...(type === 'job.snapshot' && { truncated: { const: true } }),
  })

/** One of several by the constant in a member: what OpenAPI calls a discriminator. */
export function oneOfBy(member: string, names: Readonly<Record<string, string>>) {
  return {
    type: 'object',
    required: [member],
    oneOf: Object.values(names).map(ref),
    discriminator: {
      propertyName: member,
      mapping: Object.fromEntries(Object.entries(names).map(([value, name]) => [value, ref(name).$ref])),
    },
  }
}

const named = (types: readonly EventType[]) =>
  Object.fromEntries(types.map((type) => [type, `event.${type}`]))

const tries = object({
  at: time,
  duration_ms: count,
  outcome: { enum: ['delivered', 'failed', 'dead'] },
  status_code: { type: ['integer', 'null'] },
  reason: orNull(text),
  error: orNull(text),
  redelivery: { type: 'boolean' },
})

/** The shared schemas of both documents, by name. */
export const schemas: Readonly<Record<string, Schema>> = {
  Problem: { description: 'A problem object (RFC 9457).', ...problem },
  JobError: jobError,
  Job: job,
  ...Object.fromEntries(
    [...eventTypes, 'job.snapshot' as const].map((type) => [`event.${type}`, envelope(type)]),
  ),
  JournalEvent: {
    description: 'An event of the journal: the same bytes in all modes.',
    ...oneOfBy('type', named(eventTypes)),
  },
  Event: {
    description:
      'What somebody who follows a job gets: its events, and maybe a snapshot in place of those that were trimmed.',
    ...oneOfBy('type', named([...eventTypes, 'job.snapshot'])),
  },
  EventPage: object({
    events: { type: 'array', items: ref('Event') },
    seq: { ...seq, description: 'The cursor for the next page.' },
    truncated: { type: 'boolean', description: 'Events after the cursor were trimmed.' },
  }),
  JobPage: object({
    jobs: { type: 'array', items: ref('Job') },
    next_page_token: { ...orNull(text), description: 'For `page_token`; null after the last page.' },
  }),
  BatchOutcome: {
    oneOf: [
      object({ status: { enum: [200, 202] }, replayed: { const: true }, job: ref('Job') }, ['replayed']),
      object({ status: { type: 'integer', minimum: 400, maximum: 599 }, problem: ref('Problem') }),
    ],
  },
  BatchAnswer: object({ outcomes: { type: 'array', items: ref('BatchOutcome') } }),
  JobToken: object({ token: { type: 'string', pattern: '^qt_' }, job_id: uuid, expires_at: time }),
  Delivery: object({
    seq,
    webhook_id: text,
    type: { enum: eventTypes },
    status: { enum: ['pending', 'delivered', 'dead', 'void'] },
    next_try_at: {
      ...orNull(time),
      description: 'Null while a try is under way, and once there are no more.',
    },
    tries: { type: 'array', items: tries },
  }),
  Deliveries: object({
    origin: orNull(text),
    gone: { type: 'boolean' },
    circuit: { enum: ['open', 'closed'] },
    circuit_open_until: orNull(time),
    deliveries: { type: 'array', items: ref('Delivery') },
  }),
  DeadLetters: object({
    deliveries: {
      type: 'array',
      items: object({
        job_id: uuid,
        seq,
        webhook_id: text,
        status: { const: 'dead' },
        origin: text,
        died_at: time,
      }),
    },
    next_page_token: orNull(text),
  }),
  Redelivery: object({ webhook_id: text, status: { enum: ['scheduled', 'under_way'] } }),
  Redelivered: object({ redelivered: count }),
  Health: object({ status: { enum: ['ok', 'ready'] } }),
}
