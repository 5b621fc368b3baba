import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import type { Watch } from '../access/access.ts'
import { needs, needsToRead } from '../access/authenticate.ts'
import { unauthorized } from '../access/identity.ts'
import { Problem } from '../errors.ts'
import { findJob } from '../find-job.ts'
import { waitFor, type Follow } from '../follow.ts'
import { resultOf } from '../job.ts'
import { isCorrelationId, isTerminal, jobStatuses, type JobStatus } from '../messages.ts'
import type { JobView, Store } from '../store/store.ts'
import { tooManyStreams, type HoldOpen } from './hold-open.ts'
import { preferredWait, readCursor, readLimit } from './negotiate.ts'
import { onceOver } from './once-over.ts'

/** Of a list of jobs. */
export const LIST_LIMIT = { usual: 50, most: 200 } as const

export interface PollParts {
  readonly store: Store
  readonly follow: Follow
  /** Aborts when the gateway closes: requests that are held answer with what there is. */
  readonly closing: AbortSignal
  readonly watch: Watch
  readonly holdOpen: HoldOpen
}

type JobParams = { Params: { id: string }; Querystring: Record<string, string | undefined> }

/** Polling: GET /jobs/{id} (also as a long poll), its result, and the list (docs/PROTOCOL.md "HTTP"). */
export function registerPoll(app: FastifyInstance, parts: PollParts): void {
  const { store } = parts

  app.get<JobParams>('/jobs/:id', needsToRead, async (request, reply) => {
    const after = readCursor(request.query['after'])
    const job = await findJob(store, request)
    const waitS = preferredWait(request)
    const isNews = isTerminal(job.record.status) || job.record.seq > (after ?? job.record.seq)
    const isHeld = waitS !== null && !isNews
    if (isHeld && !(await parts.holdOpen(reply))) throw tooManyStreams()
    if (waitS !== null) reply.header('preference-applied', `wait=${waitS}`)
    if (!isHeld) return sendJob(request, reply, job)
    const cursor = after ?? job.record.seq
    const signal = AbortSignal.any([parts.closing, hangUp(reply, parts.watch)])
    await waitFor(parts.follow, job.record.id, cursor, ({ seq }) => seq > cursor, {
      waitMs: waitS * 1_000,
      signal,
      tenant: request.identity.tenant,
    })
    letGo(reply, parts.closing)
    if (signal.reason instanceof Problem) throw signal.reason
    return sendJob(request, reply, await findJob(store, request))
  })

  app.get<JobParams>('/jobs/:id/result', needsToRead, async (request, reply) => {
    const { record, text } = await findJob(store, request)
    if (record.status === 'completed') {
      return reply.type('application/json; charset=utf-8').send(resultOf(record, text))
    }
    if (isTerminal(record.status)) throw new Problem('no_result', `The job is ${record.status}`)
    throw new Problem('no_result_yet', `The job is ${record.status}`, { retryAfterS: 1 })
  })

  app.get<JobParams>('/jobs', needs('jobs:read'), async (request, reply) => {
    const { status, type, limit, page_token: token } = request.query
    if (status !== undefined && !jobStatuses.includes(status as JobStatus)) {
      throw new Problem(
        'malformed_request',
        `Expected status to be one of ${jobStatuses.join(', ')}, got "${status}"`,
      )
    }
    if (token !== undefined && !isCorrelationId(token)) {
      throw new Problem(
        'malformed_request',
        'Expected page_token to be the next_page_token of an earlier page',
      )
    }
    const { jobs, next } = await store.list(
      request.identity.tenant,
      { ...(status !== undefined && { status: status as JobStatus }), ...(type !== undefined && { type }) },
      { limit: readLimit(limit, LIST_LIMIT), after: token ?? null },
    )
    const page = `{"jobs":[${jobs.map(({ text }) => text).join(',')}],"next_page_token":${JSON.stringify(next)}}`
    return reply.type('application/json; charset=utf-8').send(page)
  })
}

function sendJob(request: FastifyRequest, reply: FastifyReply, { record, text }: JobView): FastifyReply {
  const etag = `"${record.seq}"`
  reply.header('etag', etag).header('cache-control', 'private, no-cache')
  if (!isTerminal(record.status)) reply.header('retry-after', 1)
  if (matches(request.headers['if-none-match'], etag)) return reply.code(304).send()
  return reply.type('application/json; charset=utf-8').send(text)
}

/** RFC 9110 §13.1.2: weak comparison with each of a list; `*` is whatever there is. */
function matches(ifNoneMatch: string | undefined, etag: string): boolean {
  const known = (ifNoneMatch ?? '').split(',').map((each) => each.trim().replace(/^W\//, ''))
  return known.includes(etag) || known.includes('*')
}

/**
 * A held answer may come after a closing gateway has ended the connections that were idle: one that was kept alive
 * would hold it up.
 */
export function letGo(reply: FastifyReply, closing: AbortSignal): void {
  if (closing.aborted) reply.header('connection', 'close')
}

/**
 * Aborts when the client hangs up before it has its answer; or when it may no longer have it, with the problem as the
 * reason.
 */
export function hangUp(reply: FastifyReply, watch: Watch): AbortSignal {
  const controller = new AbortController()
  const unwatch = watch(reply.request.identity, () =>
    controller.abort(
      unauthorized('The credentials were revoked, or have expired, while the answer was held'),
    ),
  )
  onceOver(reply, () => {
    unwatch()
    controller.abort()
  })
  return controller.signal
}
