import { MAX_WAIT_S, type Limit } from '../deliver/negotiate.ts'
import { jobId } from './examples.ts'

/** What stands in the path, by its name there. */
export const pathParameters = {
  id: { type: 'string', description: 'The job’s id.', examples: [jobId] },
  seq: { type: 'string', pattern: '^[1-9]\\d{0,8}$', description: 'The event’s seq.', examples: ['13'] },
  file: { type: 'string', description: 'Its name.', examples: ['swagger-ui.css'] },
} as const

export const prefer = {
  type: 'string',
  description: `\`wait=N\` holds the answer, at most ${MAX_WAIT_S} s (RFC 7240 section 4.3).`,
  examples: ['wait=30'],
}
export const after = {
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

export const cursor = {
  type: 'string',
  pattern: '^\\d{0,15}$',
  description: 'Goes before `after`: an EventSource sends it when it comes back.',
}
