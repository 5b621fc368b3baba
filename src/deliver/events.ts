import type { FastifyInstance, FastifyReply } from 'fastify'
import { needsToRead } from '../access/authenticate.ts'
import { Problem } from '../errors.ts'
import { findJob } from '../find-job.ts'
import { withSnapshot } from '../follow.ts'
import { isTerminal } from '../messages.ts'
import type { JobView, Store } from '../store/store.ts'
import { tooManyStreams, type HoldOpen } from './hold-open.ts'
import { negotiate, readCursor, readLimit, varyBy } from './negotiate.ts'
import { ndjson } from './ndjson.ts'
import { sse } from './sse.ts'
import type { Streams } from './stream.ts'

/** Of a page. */
export const EVENTS_LIMIT = { usual: 100, most: 1_000 } as const

export interface EventsParts {
  readonly store: Store
  readonly streams: Streams
  readonly holdOpen: HoldOpen
}

/** GET /jobs/{id}/events: a job's journal as SSE, NDJSON or a JSON page, from a cursor on. */
export function registerEvents(app: FastifyInstance, { store, streams, holdOpen }: EventsParts): void {
  app.get<{ Params: { id: string }; Querystring: Record<string, string | undefined> }>(
    '/jobs/:id/events',
    // A HEAD would be held open like the stream it asks about.
    { ...needsToRead, exposeHeadRoute: false },
    async (request, reply) => {
      const representation = negotiate(request, ['sse', 'ndjson', 'json'])
      // An EventSource keeps its URL when it reconnects, so the header is the newer of the two.
      const after = readCursor(request.headers['last-event-id']) ?? readCursor(request.query['after']) ?? 0
      const job = await findJob(store, request)
      varyBy(reply, 'accept')
      if (representation === 'json') {
        return sendPage(store, reply, job, after, readLimit(request.query['limit'], EVENTS_LIMIT))
      }
      if (isTerminal(job.record.status) && after >= job.record.seq) return reply.code(204).send()
      if (after > job.record.seq) {
        throw new Problem(
          'bad_cursor',
          `Expected at most ${job.record.seq}, the job's last seq, got ${after}`,
        )
      }
      if (!(await holdOpen(reply))) throw tooManyStreams()
      return streams.open(reply, representation === 'sse' ? sse : ndjson, job.record.id, after)
    },
  )
}

async function sendPage(
  store: Store,
  reply: FastifyReply,
  { record }: JobView,
  after: number,
  limit: number,
): Promise<FastifyReply> {
  const page = await store.read(record.id, after, limit)
  if (!page) throw new Problem('not_found', `No job ${record.id}`)
  const events = await withSnapshot(store, record.id, after, page)
  const seq = events.at(-1)?.seq ?? after
  const truncated = after < page.trimmed
  const body = `{"events":[${events.map(({ text }) => text).join(',')}],"seq":${seq},"truncated":${truncated}}`
  return reply.type('application/json; charset=utf-8').send(body)
}
