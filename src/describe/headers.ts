/** The headers of answers. */
export const headers = {
  'X-Request-Id': {
    description:
      'Names this request in the gateway’s log; the request’s own, if it had one that is fit for it.',
    schema: { type: 'string', minLength: 1 },
    example: '5f2c1c1e-3c9b-4f0e-9d0e-0f6d7b1f2a31',
  },
  'X-Correlation-Id': {
    description: 'The job’s id.',
    schema: { type: 'string', format: 'uuid' },
    example: '01a2070d-1975-74f5-aaa4-55f9917c2231',
  },
  Location: {
    description: 'Where the job is.',
    schema: { type: 'string', format: 'uri-reference' },
    example: '/jobs/01a2070d-1975-74f5-aaa4-55f9917c2231',
  },
  ETag: {
    description: 'The job’s seq in quotes: it changes with every event.',
    schema: { type: 'string', pattern: '^"\\d+"$' },
    example: '"7"',
  },
  'Retry-After': {
    description: 'Seconds after which to ask again.',
    schema: { type: 'string', pattern: '^\\d+$' },
    example: '1',
  },
  'Preference-Applied': {
    description: 'How long the answer would have been held.',
    schema: { type: 'string', pattern: '^wait=\\d+$' },
    example: 'wait=30',
  },
  'Idempotent-Replayed': {
    description: 'The job was made by an earlier request with this key.',
    schema: { const: 'true' },
    example: 'true',
  },
  'WWW-Authenticate': {
    description: 'What would let the request in (RFC 6750).',
    schema: { type: 'string' },
    example: 'Bearer error="insufficient_scope", scope="jobs:write"',
  },
  'Cache-Control': {
    description: 'Who may keep the answer.',
    schema: { type: 'string' },
    example: 'private, no-cache',
  },
  Vary: {
    description: 'Which headers of the request the answer depends on.',
    schema: { type: 'string' },
    example: 'accept',
  },
  'X-Accel-Buffering': {
    description: 'Tells nginx to pass each event on at once.',
    schema: { const: 'no' },
    example: 'no',
  },
  Upgrade: {
    description: 'What this address speaks.',
    schema: { const: 'websocket' },
    example: 'websocket',
  },
  RateLimit: {
    description:
      'What is left of the limit, and for how long (draft-ietf-httpapi-ratelimit-headers), where there is one.',
    schema: { type: 'string' },
    example: '"default";r=99;t=1',
  },
  'RateLimit-Policy': {
    description: 'The limit, where there is one.',
    schema: { type: 'string' },
    example: '"default";q=100;w=1',
  },
} as const satisfies Record<string, { description: string; schema: object; example: string }>

export type HeaderName = keyof typeof headers
