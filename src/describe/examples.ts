import { eventText, jobText } from '../job.ts'
import { problemObject, type ProblemCode, type ProblemObject } from '../errors.ts'
import type { EventType, JobRecord } from '../messages.ts'
import { json, ref } from './operation.ts'

/* Examples are written by what writes the answers. */

const at = Date.UTC(2026, 10, 23, 6, 17, 8, 725)
const day = 86_400_000

export const jobId = '01a2070d-1975-74f5-aaa4-55f9917c2231'
export const receiver = 'https://example.com'

const accepted: JobRecord = {
  id: jobId,
  tenant: 'acme',
  type: 'order',
  route: ['inventory', 'payment', 'shipping', 'notification'],
  status: 'queued',
  step: 0,
  attempt: 0,
  active: false,
  ending: null,
  progress: null,
  error: null,
  seq: 1,
  metadata: { customer: '42' },
  priority: 0,
  createdAt: at,
  notBefore: at,
  startedAt: null,
  updatedAt: at,
  finishedAt: null,
  expiresAt: null,
  deadlineAt: at + 600_000,
  retentionMs: day,
  journalLimit: 10_000,
}
const running: JobRecord = {
  ...accepted,
  status: 'running',
  step: 1,
  attempt: 1,
  active: true,
  progress: { percent: 40, message: 'charging' },
  seq: 7,
  startedAt: at + 16,
  updatedAt: at + 377,
}
const ended = { active: false, finishedAt: at + 900, updatedAt: at + 900, expiresAt: at + 900 + day }
const completed: JobRecord = { ...running, ...ended, status: 'completed', step: 3, progress: null, seq: 13 }
const failed: JobRecord = {
  ...running,
  ...ended,
  status: 'failed',
  seq: 8,
  error: {
    ...problemObject('step_failed', 'the card was declined'),
    step: 'payment',
    index: 1,
    attempts: 1,
  },
}
const canceled: JobRecord = { ...accepted, ...ended, status: 'canceled', seq: 2, startedAt: null }
const expired: JobRecord = {
  ...running,
  ...ended,
  status: 'expired',
  seq: 9,
  error: problemObject('deadline_exceeded'),
}

export const result = { order_id: 'A-1', tracking: 'post-4711' }

const show = (job: JobRecord, resultText?: string): unknown => JSON.parse(jobText(job, resultText))

export const jobs = {
  queued: show(accepted),
  running: show(running),
  canceling: show({ ...running, status: 'canceling', seq: 8 }),
  completed: show(completed, JSON.stringify(result)),
  failed: show(failed),
  canceled: show(canceled),
  expired: show(expired),
}

/** Some of these, for the body of an answer. */
export function jobsShown(...names: (keyof typeof jobs)[]) {
  return json(ref('Job'), Object.fromEntries(names.map((name) => [name, jobs[name]])))
}

const event = (job: JobRecord, type: EventType, data: unknown): string =>
  eventText(job, type, JSON.stringify(data))
const payment = { step: 'payment', index: 1 }

/** Envelopes, as text. */
export const eventTexts: Readonly<Record<EventType, string>> = {
  'job.queued': event(accepted, 'job.queued', jobs.queued),
  'step.started': event({ ...running, seq: 6 }, 'step.started', { ...payment, attempt: 1 }),
  'job.progress': event(running, 'job.progress', { percent: 40, message: 'charging' }),
  'step.retrying': event({ ...running, seq: 8 }, 'step.retrying', {
    ...payment,
    attempt: 1,
    reason: 'connect ECONNREFUSED',
    delay_ms: 200,
  }),
  'step.completed': event({ ...running, seq: 8 }, 'step.completed', payment),
  'job.canceling': event({ ...running, status: 'canceling', seq: 8 }, 'job.canceling', {}),
  'job.completed': event(completed, 'job.completed', jobs.completed),
  'job.failed': event(failed, 'job.failed', jobs.failed),
  'job.canceled': event(canceled, 'job.canceled', jobs.canceled),
  'job.expired': event(expired, 'job.expired', jobs.expired),
  'job.snapshot': `${event({ ...running, seq: 5 }, 'job.snapshot', jobs.running).slice(0, -1)},"truncated":true}`,
}

export const events = Object.fromEntries(
  Object.entries(eventTexts).map(([type, text]) => [type, JSON.parse(text) as unknown]),
) as Record<EventType, unknown>

/** What it takes to make the jobs above. */
export const request = {
  type: 'order',
  input: {
    order_id: 'A-1',
    items: [{ sku: 'tea', quantity: 2 }],
    amount_cents: 1250,
    card: '4242424242424242',
  },
  metadata: { customer: '42' },
}
export const requests = {
  plain: request,
  everything: {
    ...request,
    callback_url: `${receiver}/hooks`,
    callback_events: ['job.progress', 'job.completed', 'job.failed'],
    priority: 10,
    delay_ms: 1_000,
    deadline_ms: 60_000,
  },
}

const details: Partial<Record<ProblemCode, Partial<ProblemObject>>> = {
  invalid: {
    detail: '/priority must be >= 0 (and 1 more)',
    errors: [
      { path: '/priority', message: 'must be >= 0' },
      { path: '/input/items', message: 'is required' },
    ],
  },
  step_failed: { detail: 'the card was declined', step: 'payment', index: 1, attempts: 1 },
  result_too_large: {
    detail: 'Expected at most 8388608 bytes, got 9000000',
    step: 'payment',
    index: 1,
    attempts: 1,
  },
  rate_limited: { detail: 'Expected at most 1000 requests in 60 s', retry_after: 42 },
  too_many_streams: { detail: 'Expected another stream or held answer to end first', retry_after: 5 },
  no_result_yet: { detail: 'The job is running', retry_after: 1 },
  store_unavailable: { detail: 'Redis does not answer; try again shortly', retry_after: 2 },
}

export function problemExample(code: ProblemCode): ProblemObject {
  return { ...problemObject(code), ...details[code] }
}
