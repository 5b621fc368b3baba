import { eventTypes } from '../messages.ts'
import { parseSigningKeys, sign } from '../deliver/signature.ts'
import { events, eventTexts, jobId } from './examples.ts'
import { ref } from './operation.ts'

/** Of the examples alone. */
const keys = parseSigningKeys('whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=')
const id = `${jobId}.13`
const timestamp = 1_795_414_629

const headers = {
  'webhook-id': {
    description: '`<job_id>.<seq>`, the same at every try: who knows it has the event already.',
    schema: { type: 'string', pattern: '^[0-9a-f-]{36}\\.\\d+$' },
    example: id,
  },
  'webhook-timestamp': {
    description: 'When this try is made, in seconds since the epoch.',
    schema: { type: 'string', pattern: '^\\d+$' },
    example: String(timestamp),
  },
  'webhook-signature': {
    description:
      '`v1,<base64>` (HMAC-SHA256) or `v1a,<base64>` (Ed25519) of `<webhook-id>.<webhook-timestamp>.<body>`; several, ' +
      'separated by spaces, while keys are rotated.',
    schema: { type: 'string', pattern: '^v1a?,[A-Za-z0-9+/]+=*( v1a?,[A-Za-z0-9+/]+=*)*$' },
    example: sign(keys.of('acme'), { id, timestamp, body: eventTexts['job.completed'] }),
  },
}

/** What the gateway sends to return addresses (docs/PROTOCOL.md "Webhook"), for the section `webhooks`. */
export const webhooks = {
  jobEvent: {
    post: {
      operationId: 'receiveEvent',
      tags: ['webhooks'],
      summary: 'An event of a job, at its return address',
      description:
        'As of [Standard Webhooks](https://www.standardwebhooks.com): the events of a job come one at a time, in the order ' +
        'of seq, each at least once. Verify the signature before anything else.',
      security: [],
      parameters: Object.entries(headers).map(([name, header]) => ({
        name,
        in: 'header',
        required: true,
        ...header,
      })),
      requestBody: {
        required: true,
        content: {
          'application/json': {
            schema: ref('JournalEvent'),
            examples: Object.fromEntries(eventTypes.map((type) => [type, { value: events[type] }])),
          },
        },
      },
      responses: {
        '2XX': { description: 'Delivered, if it comes within 15 seconds.' },
        '410': { description: 'Nobody listens here any more: nothing further is sent to this address.' },
        default: { description: 'It is tried again, after `Retry-After` where that comes with 429 or 503.' },
      },
    },
  },
} as const
