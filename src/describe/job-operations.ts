import { ndjson } from '../deliver/ndjson.ts'
import { MAX_WAIT_S, type Limit } from '../deliver/negotiate.ts'
import { LIST_LIMIT } from '../deliver/poll.ts'
import { EVENTS_LIMIT } from '../deliver/events.ts'
import { sse } from '../deliver/sse.ts'
import type { StreamFormat } from '../deliver/stream.ts'
import { jobStatuses, MAX_TOKEN_TTL_S, toEvent, type EventType } from '../messages.ts'
import { eventTexts, events, jobId, jobs, problemExample, receiver, requests, result } from './examples.ts'
import { json, ref, type Answer, type Operation } from './operation.ts'

/* docs/PROTOCOL.md "HTTP". */

const prefer = {
  type: 'string',
  description: `\`wait=N\` holds the answer, at most ${MAX_WAIT_S} s (RFC 7240 section 4.3).`,
  examples: ['wait=30'],
}
const after = {
  type: 'string',
  pattern: '^\\d{0,15}$',
  description: 'The seq of the last event that the client knows.',
}
export const limitOf = ({ usual, most }: Limit) => ({
  type: 'integer',
  minimum: 1,
  maximum: most,
  default: usual,
  description: 'How many at most.',
})
export const pageToken = {
  type: 'string',
  description: 'The `next_page_token` of the page before, with the same filters.',
}

const cursor = {
  type: 'string',
  pattern: '^\\d{0,15}$',
  description: 'Goes before `after`: an EventSource sends it when it comes back.',
}

const story: readonly EventType[] = ['job.queued', 'step.started', 'job.progress', 'job.completed']

const written = ({ preamble, encode }: StreamFormat): string =>
  preamble + story.map((type) => encode(toEvent(eventTexts[type])).toString()).join('')

/** The two that go on until the job has ended. */
const streams: NonNullable<Answer['content']> = {
  'text/event-stream': {
    schema: {
      type: 'string',
      description: 'Each `data` is an event on one line, `id` its seq, `event` its type.',
    },
    itemSchema: ref('Event'),
    examples: { story: written(sse) },
  },
  'application/x-ndjson': {
    schema: { type: 'string', description: 'An event a line.' },
    itemSchema: ref('Event'),
    examples: { story: written(ndjson) },
  },
}

const whichJob = 'The job.'
const jobAnswer = (...names: (keyof typeof jobs)[]) =>
  json(ref('Job'), Object.fromEntries(names.map((name) => [name, jobs[name]])))

export const jobOperations: Readonly<Record<string, Operation>> = {
  'POST /jobs': {
    id: 'submitJob',
    tag: 'jobs',
    summary: 'Submit a job',
    description:
      'A **202** is a promise: the job comes to exactly one terminal event. `Accept` chooses whether the answer is the job ' +
      'or the stream of its events, `Prefer: wait=N` holds it until the job has ended.',
    headers: {
      Prefer: prefer,
      'Idempotency-Key': {
        type: 'string',
        pattern: '^[\\x20-\\x7e]{1,255}$',
        description: 'The same key with the same body is the same job, for 24 hours.',
      },
    },
    body: { isRequired: true, schema: ref('JobRequest'), examples: requests },
    answers: {
      200: {
        description: 'The job has ended already; or, for who accepts a stream, its events from the first on.',
        headers: ['Location', 'X-Correlation-Id'],
        mayHave: ['ETag', 'Preference-Applied', 'Idempotent-Replayed', 'Cache-Control', 'X-Accel-Buffering'],
        content: { ...jobAnswer('completed', 'failed'), ...streams },
      },
      202: {
        description: 'The job was accepted.',
        headers: ['Location', 'X-Correlation-Id', 'ETag', 'Retry-After'],
        mayHave: ['Preference-Applied', 'Idempotent-Replayed'],
        content: jobAnswer('queued'),
      },
    },
    problems: ['type_not_allowed', 'not_found', 'not_acceptable', 'idempotency_mismatch', 'queue_full'],
  },

  'POST /jobs/batch': {
    id: 'submitBatch',
    tag: 'jobs',
    summary: 'Submit many jobs',
    description:
      'Each is judged, limited and accepted as if it came alone. The outcomes are in the order of the jobs.',
    body: {
      isRequired: true,
      schema: ref('BatchRequest'),
      examples: { two: { jobs: [{ ...requests.plain, idempotency_key: 'order-A-1' }, requests.plain] } },
    },
    answers: {
      200: {
        description: 'What became of each.',
        content: json(ref('BatchAnswer'), {
          mixed: {
            outcomes: [
              { status: 202, job: jobs.queued },
              { status: 200, replayed: true, job: jobs.completed },
              { status: 422, problem: problemExample('invalid') },
            ],
          },
        }),
      },
    },
    problems: ['not_acceptable'],
  },

  'GET /jobs': {
    id: 'listJobs',
    tag: 'jobs',
    summary: 'List jobs, newest first',
    query: {
      status: { enum: jobStatuses, description: 'Only those with this status.' },
      type: { type: 'string', description: 'Only those of this type.' },
      limit: limitOf(LIST_LIMIT),
      page_token: pageToken,
    },
    answers: {
      200: {
        description: 'A page. It may have fewer jobs than the limit, and still be followed by another.',
        content: json(ref('JobPage'), {
          page: { jobs: [jobs.running, jobs.completed], next_page_token: jobId },
        }),
      },
    },
  },

  'GET /jobs/:id': {
    id: 'getJob',
    tag: 'jobs',
    summary: 'Poll a job',
    description:
      'In every status. With `Prefer: wait=N` it is a long poll: it is answered once the job’s seq exceeds `after`, and at ' +
      'once if the job has ended.',
    query: { after },
    headers: {
      Prefer: prefer,
      'If-None-Match': { type: 'string', description: 'The `ETag` of an earlier answer.' },
    },
    answers: {
      200: {
        description: whichJob,
        headers: ['ETag', 'Cache-Control'],
        mayHave: ['Retry-After', 'Preference-Applied'],
        content: jobAnswer('queued', 'running', 'completed', 'failed', 'canceled', 'expired'),
      },
      304: {
        description: 'Nothing has changed.',
        headers: ['ETag', 'Cache-Control'],
        mayHave: ['Retry-After', 'Preference-Applied'],
      },
    },
    problems: ['bad_cursor', 'not_found'],
  },

  'GET /jobs/:id/result': {
    id: 'getResult',
    tag: 'jobs',
    summary: 'Get the result alone',
    answers: {
      200: {
        description: 'The very JSON text that the worker wrote.',
        mayHave: ['Cache-Control'],
        content: json(true, { order: result }),
      },
    },
    problems: ['not_found', 'no_result_yet', 'no_result'],
  },

  'POST /jobs/:id/cancel': {
    id: 'cancelJob',
    tag: 'jobs',
    summary: 'Cancel a job',
    description:
      'Needs no body. A worker that has the job is not interrupted: what it does is over when the attempt is.',
    answers: {
      200: { description: 'It is canceled.', content: jobAnswer('canceled') },
      202: { description: 'It will be, once its worker is done.', content: jobAnswer('canceling') },
    },
    problems: ['not_found', 'already_finished'],
  },

  'POST /jobs/:id/tokens': {
    id: 'issueToken',
    tag: 'jobs',
    summary: 'Issue a token for reading this job',
    description: 'For a browser, which must not have a key.',
    body: { isRequired: false, schema: ref('TokenRequest'), examples: { minute: { ttl_s: 60 } } },
    answers: {
      201: {
        description: 'The token.',
        headers: ['Cache-Control'],
        content: json(ref('JobToken'), {
          token: {
            token: 'qt_eyJqIjoiMDFhMjA3MGQifQ.bm90IGEgcmVhbCBvbmUsIGJ1dCBvZiB0aGlzIGtpbmQ',
            job_id: jobId,
            expires_at: new Date(Date.UTC(2026, 10, 23, 6, 32) + MAX_TOKEN_TTL_S).toISOString(),
          },
        }),
      },
    },
    problems: ['not_found'],
  },

  'GET /jobs/:id/events': {
    id: 'getEvents',
    tag: 'events',
    summary: 'Follow a job, or read its journal',
    description:
      'From the cursor on, in what `Accept` prefers: a stream of server-sent events (also without `Accept`), the same as ' +
      'NDJSON, or as JSON a page at once.',
    query: {
      after,
      limit: { ...limitOf(EVENTS_LIMIT), description: 'How many events a page has at most.' },
    },
    headers: { 'Last-Event-ID': cursor },
    answers: {
      200: {
        description: 'The events.',
        headers: ['Vary'],
        mayHave: ['Cache-Control', 'X-Accel-Buffering'],
        content: {
          ...streams,
          ...json(ref('EventPage'), {
            page: { events: [events['step.started'], events['job.progress']], seq: 7, truncated: false },
            trimmed: { events: [events['job.snapshot'], events['step.started']], seq: 6, truncated: true },
          }),
        },
      },
      204: {
        description: 'The job has ended and has nothing after the cursor, which stops an EventSource.',
        headers: ['Vary'],
        mayHave: ['Cache-Control'],
      },
    },
    problems: ['bad_cursor', 'not_found', 'not_acceptable'],
  },

  'PUT /jobs/:id/callback': {
    id: 'setCallback',
    tag: 'webhooks',
    summary: 'Give a job a return address, or another one',
    description:
      'At any time, also after its end: all events after `after` that are asked for are delivered.',
    body: {
      isRequired: true,
      schema: ref('CallbackRequest'),
      examples: { address: { callback_url: `${receiver}/hooks`, callback_events: ['*'], after: 3 } },
    },
    answers: { 200: { description: whichJob, content: jobAnswer('running') } },
    problems: ['bad_cursor', 'not_found'],
  },
}
