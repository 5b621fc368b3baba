import { DEAD_LIMIT } from '../deliver/deliveries.ts'
import { jobId, jobsShown, receiver } from './examples.ts'
import { limitOf, pageToken } from './parameters.ts'
import { json, ref, type Operation } from './operation.ts'

/* docs/PROTOCOL.md "PUT /jobs/{id}/callback" to "POST /deliveries/redeliver". */

const webhookId = `${jobId}.13`

export const deliveryOperations: Readonly<Record<string, Operation>> = {
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
    answers: { 200: { description: 'The job.', content: jobsShown('running') } },
    problems: ['bad_cursor', 'not_found'],
  },

  'GET /jobs/:id/deliveries': {
    id: 'getDeliveries',
    tag: 'webhooks',
    summary: 'See what became of a job’s webhooks',
    answers: {
      200: {
        description: 'Its deliveries, and the tries of each.',
        content: json(ref('Deliveries'), {
          retrying: {
            origin: receiver,
            gone: false,
            circuit: 'closed',
            circuit_open_until: null,
            deliveries: [
              {
                seq: 13,
                webhook_id: webhookId,
                type: 'job.completed',
                status: 'pending',
                next_try_at: '2026-11-23T06:17:14.900Z',
                tries: [
                  {
                    at: '2026-11-23T06:17:09.650Z',
                    duration_ms: 31,
                    outcome: 'failed',
                    status_code: 503,
                    reason: 'http_status',
                    error: 'Expected a 2xx status, got 503',
                    redelivery: false,
                  },
                ],
              },
            ],
          },
        }),
      },
    },
    problems: ['not_found'],
  },

  'POST /jobs/:id/deliveries/:seq/redeliver': {
    id: 'redeliver',
    tag: 'webhooks',
    summary: 'Deliver an event once more',
    description:
      'Needs no body. It goes to the return address that the job has by now, under the same `webhook-id`.',
    answers: {
      202: {
        description: 'It is tried now.',
        content: json(ref('Redelivery'), { scheduled: { webhook_id: webhookId, status: 'scheduled' } }),
      },
    },
    problems: ['not_found', 'no_such_delivery', 'no_callback'],
  },

  'GET /deliveries': {
    id: 'listDeadLetters',
    tag: 'webhooks',
    summary: 'List dead letters, newest first',
    required: ['status'],
    query: {
      status: { const: 'dead', description: 'There is no other list.' },
      origin: {
        type: 'string',
        description: `Only those to this scheme, host and port, such as ${receiver}.`,
      },
      since: { type: 'string', format: 'date-time', description: 'Only those that died since then.' },
      limit: limitOf(DEAD_LIMIT),
      page_token: pageToken,
    },
    answers: {
      200: {
        description: 'A page of those that were given up.',
        content: json(ref('DeadLetters'), {
          page: {
            deliveries: [
              {
                job_id: jobId,
                seq: 13,
                webhook_id: webhookId,
                status: 'dead',
                origin: receiver,
                died_at: '2026-11-25T05:02:11.004Z',
              },
            ],
            next_page_token: null,
          },
        }),
      },
    },
  },

  'POST /deliveries/redeliver': {
    id: 'redeliverAll',
    tag: 'webhooks',
    summary: 'Deliver the dead letters of an origin once more',
    body: {
      isRequired: true,
      schema: ref('RedeliverRequest'),
      examples: { since: { origin: receiver, since: '2026-11-24T00:00:00Z' } },
    },
    answers: {
      202: {
        description: 'How many will be tried.',
        content: json(ref('Redelivered'), { some: { redelivered: 17 } }),
      },
    },
  },
}
