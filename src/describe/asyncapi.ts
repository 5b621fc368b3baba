import { clientMessages, ref as refSchema, type Message } from '../deliver/websocket-message.ts'
import { closes } from '../deliver/websocket-session.ts'
import { SUBPROTOCOL, socketLimits } from '../deliver/websocket.ts'
import { events, jobId, jobs, problemExample, requests } from './examples.ts'
import { requestSchemas } from './job-types.ts'
import { ref, type Schema } from './operation.ts'
import { schemas, seq, uuid } from './schemas.ts'

/* docs/PROTOCOL.md "WebSocket", as AsyncAPI 3.0. */

const answer = (op: string, properties: Readonly<Record<string, Schema>> = {}) => ({
  type: 'object',
  required: ['op', ...Object.keys(properties)],
  properties: { op: { const: op }, ...properties },
})

/** What the gateway sends. */
const serverMessages = {
  ready: answer('ready', { heartbeat_ms: { type: 'integer' }, max_subscriptions: { type: 'integer' } }),
  accepted: answer('accepted', { ref: refSchema, job: ref('Job') }),
  subscribed: answer('subscribed', { ref: refSchema, job_id: uuid, seq }),
  done: answer('done', { ref: refSchema }),
  error: answer('error', { ref: refSchema, problem: ref('Problem') }),
  pong: answer('pong'),
  event: answer('event', { event: ref('Event') }),
  end: answer('end', { job_id: uuid }),
}
type ServerMessage = keyof typeof serverMessages

const summaries: Readonly<Record<Message['op'] | ServerMessage, string>> = {
  init: 'Says who the client is. First, within 10 seconds; without a token the header of the handshake counts.',
  submit: 'Submits a job, and subscribes to it.',
  subscribe: 'Asks for a job’s events after `after`.',
  unsubscribe: 'Asks for no more events of a job.',
  cancel: 'Cancels a job.',
  ping: 'Asks whether the gateway is there.',
  ready: 'The client is let in.',
  accepted: 'The job was accepted. Its events follow, from the first on.',
  subscribed: 'The job’s seq at that moment. Its events after the cursor follow.',
  done: 'It is done.',
  error: 'The message with this `ref` failed; the socket goes on.',
  pong: 'It is.',
  event: 'An event of any of the jobs that are subscribed to.',
  end: 'The job’s last event was sent, and with it the subscription is over.',
}

const named = { ref: 1, job_id: jobId }

const examples: Readonly<Record<Message['op'] | ServerMessage, object>> = {
  init: { op: 'init', token: 'qk_id_secret' },
  submit: { op: 'submit', ref: 1, job: requests.plain, idempotency_key: 'order-A-1' },
  subscribe: { op: 'subscribe', ...named, after: 7 },
  unsubscribe: { op: 'unsubscribe', ...named },
  cancel: { op: 'cancel', ...named },
  ping: { op: 'ping' },
  ready: { op: 'ready', heartbeat_ms: socketLimits.heartbeatMs, max_subscriptions: 128 },
  accepted: { op: 'accepted', ref: 1, job: jobs.queued },
  subscribed: { op: 'subscribed', ...named, seq: 7 },
  done: { op: 'done', ref: 1 },
  error: { op: 'error', ref: 1, problem: problemExample('not_found') },
  pong: { op: 'pong' },
  event: { op: 'event', event: events['job.progress'] },
  end: { op: 'end', job_id: jobId },
}

/** Which answers a message may have. */
const replies: Readonly<Record<Message['op'], readonly ServerMessage[]>> = {
  init: ['ready'],
  submit: ['accepted', 'error'],
  subscribe: ['subscribed', 'error'],
  unsubscribe: ['done', 'error'],
  cancel: ['done', 'error'],
  ping: ['pong'],
}

const closeMeanings: Readonly<Record<keyof typeof closes, string>> = {
  bad_message: 'A message that is not of this protocol, or not this subprotocol.',
  unauthorized: 'A message before `init`, or credentials that are missing, not valid, revoked or expired.',
  forbidden: 'A page of another origin that the operator does not allow, or whom the authorizer refuses.',
  no_init: 'No `init` in time.',
  limit: 'Too much at a time.',
  going_away: 'The gateway shuts down, or cannot check credentials now. Safe to reconnect.',
  too_slow: 'Too much waited for too long. Safe to reconnect.',
  too_old: 'The socket has had its time. Safe to reconnect.',
}

const channel = '#/channels/socket'
const messageRef = (name: string) => ({ $ref: `${channel}/messages/${name}` })
const clientOps = Object.keys(clientMessages) as Message['op'][]

/** The document of the WebSocket: the same for everybody. */
export function asyncApi(): object {
  const { submit } = clientMessages
  const payloads: Readonly<Record<string, object>> = {
    ...clientMessages,
    submit: { ...submit, properties: { ...submit.properties, job: ref('JobRequest') } },
    ...serverMessages,
  }
  return {
    asyncapi: '3.0.0',
    info: {
      title: 'Quartet, the WebSocket',
      version: SUBPROTOCOL,
      description:
        'One socket for many jobs. Messages are answered in the order in which they came. The job types are in ' +
        'openapi.json. “Safe to reconnect” means: subscribe again with the last seq as `after`, and nothing is lost.',
      license: { name: 'MIT' },
    },
    defaultContentType: 'application/json',
    channels: {
      socket: {
        address: '/ws',
        description: `A WebSocket with the subprotocol \`${SUBPROTOCOL}\`; text frames.`,
        messages: Object.fromEntries(
          Object.keys(payloads).map((name) => [name, { $ref: `#/components/messages/${name}` }]),
        ),
        bindings: {
          ws: {
            method: 'GET',
            headers: {
              type: 'object',
              required: ['Sec-WebSocket-Protocol'],
              properties: { 'Sec-WebSocket-Protocol': { const: SUBPROTOCOL } },
            },
          },
        },
        'x-closes': Object.fromEntries(
          Object.entries(closes).map(([name, code]) => [code, closeMeanings[name as keyof typeof closes]]),
        ),
      },
    },
    operations: {
      ...Object.fromEntries(clientOps.map((op) => [op, received(op)])),
      follow: {
        action: 'send',
        channel: { $ref: channel },
        summary: 'Events of the jobs that are subscribed to, as they happen.',
        messages: [messageRef('event'), messageRef('end')],
      },
    },
    components: {
      messages: Object.fromEntries(
        Object.entries(payloads).map(([name, payload]) => [
          name,
          {
            name,
            summary: summaries[name as keyof typeof summaries],
            payload,
            examples: [{ payload: examples[name as keyof typeof examples] }],
          },
        ]),
      ),
      schemas: Object.fromEntries(
        Object.entries({ ...schemas, ...requestSchemas(null) }).map(([name, schema]) => [
          name,
          plain(schema),
        ]),
      ),
    },
  }
}

function received(op: Message['op']): object {
  return {
    action: 'receive',
    channel: { $ref: channel },
    summary: summaries[op],
    messages: [messageRef(op)],
    reply: { channel: { $ref: channel }, messages: replies[op].map(messageRef) },
  }
}

/** AsyncAPI means another thing by a discriminator. */
function plain(schema: Schema): Schema {
  if (typeof schema === 'boolean' || !('discriminator' in schema)) return schema
  const { discriminator: _, ...rest } = schema
  return rest
}
