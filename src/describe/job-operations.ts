import { LIST_LIMIT } from '../deliver/poll.ts'
import { jobStatuses } from '../messages.ts'
import { streams } from './event-operations.ts'
import { jobId, jobs, jobsShown, problemExample, requests, result } from './examples.ts'
import { json, ref, type Operation } from './operation.ts'
import { after, limitOf, pageToken, prefer } from './parameters.ts'

/* docs/PROTOCOL.md "HTTP". */

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
        content: { ...jobsShown('completed', 'failed'), ...streams },
      },
      202: {
        description: 'The job was accepted.',
        headers: ['Location', 'X-Correlation-Id', 'ETag', 'Retry-After'],
        mayHave: ['Preference-Applied', 'Idempotent-Replayed'],
        content: jobsShown('queued'),
      },
    },
    problems: [
      'type_not_allowed',
      'not_found',
      'not_acceptable',
      'idempotency_mismatch',
      'too_many_streams',
      'too_many_waiting',
      'queue_full',
    ],
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
        description: 'The job.',
        headers: ['ETag', 'Cache-Control'],
        mayHave: ['Retry-After', 'Preference-Applied'],
        content: jobsShown('queued', 'running', 'completed', 'failed', 'canceled', 'expired'),
      },
      304: {
        description: 'Nothing has changed.',
        headers: ['ETag', 'Cache-Control'],
        mayHave: ['Retry-After', 'Preference-Applied'],
      },
    },
    problems: ['bad_cursor', 'not_found', 'too_many_streams'],
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
      200: { description: 'It is canceled.', content: jobsShown('canceled') },
      202: { description: 'It will be, once its worker is done.', content: jobsShown('canceling') },
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
            expires_at: '2026-11-23T06:32:08.725Z',
          },
        }),
      },
    },
    problems: ['not_found'],
  },
}
