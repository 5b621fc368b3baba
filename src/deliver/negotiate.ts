import type { FastifyReply, FastifyRequest } from 'fastify'
import { Problem } from '../errors.ts'

/** What a client asked to have its events in. */
export type Representation = 'json' | 'sse' | 'ndjson'

const mediaTypes: Readonly<Record<Representation, string>> = {
  json: 'application/json',
  sse: 'text/event-stream',
  ndjson: 'application/x-ndjson',
}

/**
 * Picks the representation by the `Accept` header (RFC 9110 §12.5.1).
 * @param offered in the gateway's order of preference, which decides when the client has none
 * @throws Problem `not_acceptable`
 */
export function negotiate(request: FastifyRequest, offered: readonly Representation[]): Representation {
  const chosen = request.accepts().type(offered.map((each) => mediaTypes[each]))
  const found = offered.find((each) => mediaTypes[each] === chosen)
  if (found) return found
  throw new Problem('not_acceptable', `Expected one of ${offered.map((each) => mediaTypes[each]).join(', ')}`)
}

/** The longest that a request is held for `Prefer: wait=N`, in seconds. */
export const MAX_WAIT_S = 60

/** Seconds of `Prefer: wait=N` (RFC 7240 §4.3), at most 60; null without one. What cannot be read is ignored (§2). */
export function preferredWait(request: FastifyRequest): number | null {
  const match = /(?:^|[,;])\s*wait\s*=\s*"?(\d+)"?\s*(?:$|[,;])/i.exec(
    String(request.headers['prefer'] ?? ''),
  )
  return match ? Math.min(Number(match[1]), MAX_WAIT_S) : null
}

/** A seq given by a client, as a query parameter or header. @throws Problem `bad_cursor` */
export function readCursor(value: unknown): number | null {
  if (value === undefined || value === '') return null
  if (typeof value === 'string' && /^\d{1,15}$/.test(value)) return Number(value)
  throw new Problem('bad_cursor', `Expected the seq of an event, got ${JSON.stringify(value)}`)
}

/** How many a page has when nobody says, and at most. */
export interface Limit {
  readonly usual: number
  readonly most: number
}

/** How many are asked for, given as a query parameter. @throws Problem `malformed_request` */
export function readLimit(value: unknown, { usual, most }: Limit): number {
  if (value === undefined) return usual
  const number = typeof value === 'string' && /^\d{1,6}$/.test(value) ? Number(value) : Number.NaN
  if (number >= 1 && number <= most) return number
  throw new Problem(
    'malformed_request',
    `Expected limit to be a whole number from 1 to ${most}, got ${JSON.stringify(value)}`,
  )
}

/** Says that the answer depends on a header of the request, besides those that were named before. */
export function varyBy(reply: FastifyReply, header: string): void {
  const named = reply.getHeader('vary')
  reply.header('vary', named === undefined ? header : `${String(named)}, ${header}`)
}
