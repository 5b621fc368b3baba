import { createAjv } from '../catalog.ts'

/** What a client may send, docs/PROTOCOL.md "WebSocket". */
export type Message =
  | { readonly op: 'init'; readonly token?: string }
  | { readonly op: 'submit'; readonly ref: Ref; readonly job: unknown; readonly idempotency_key?: string }
  | { readonly op: 'subscribe'; readonly ref: Ref; readonly job_id: string; readonly after?: number }
  | { readonly op: 'unsubscribe' | 'cancel'; readonly ref: Ref; readonly job_id: string }
  | { readonly op: 'ping' }
type Ref = string | number

/** The client's own choice, which comes back on the answer. */
export const ref = { type: ['string', 'number'], maxLength: 128 }
const jobId = { type: 'string' }

function message(op: Message['op'], properties: object, required: readonly string[]) {
  return {
    type: 'object',
    properties: { op: { const: op }, ...properties },
    required: ['op', ...required],
    additionalProperties: false,
  } as const
}

/** JSON Schema 2020-12 of each {@link Message}. */
export const clientMessages = {
  init: message('init', { token: { type: 'string' } }, []),
  submit: message('submit', { ref, job: {}, idempotency_key: { type: 'string' } }, ['ref', 'job']),
  subscribe: message('subscribe', { ref, job_id: jobId, after: { type: 'integer', minimum: 0 } }, [
    'ref',
    'job_id',
  ]),
  unsubscribe: message('unsubscribe', { ref, job_id: jobId }, ['ref', 'job_id']),
  cancel: message('cancel', { ref, job_id: jobId }, ['ref', 'job_id']),
  ping: message('ping', {}, []),
} as const satisfies Record<Message['op'], object>

const validate = createAjv().compile<Message>({ oneOf: Object.values(clientMessages) })

/** @returns null for what is not of the protocol */
export function parseMessage(text: string): Message | null {
  try {
    const value: unknown = JSON.parse(text)
    return validate(value) ? value : null
  } catch {
    return null
  }
}
