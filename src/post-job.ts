import type { FastifyInstance, FastifyReply } from 'fastify'
import { needs } from './access/authenticate.ts'
import { Problem } from './errors.ts'
import { tooManyStreams } from './deliver/hold-open.ts'
import { ndjson } from './deliver/ndjson.ts'
import { negotiate, preferredWait } from './deliver/negotiate.ts'
import { hangUp, letGo, type PollParts } from './deliver/poll.ts'
import { sse } from './deliver/sse.ts'
import type { Streams } from './deliver/stream.ts'
import { waitFor } from './follow.ts'
import { isTerminal } from './messages.ts'
import type { JobView } from './store/store.ts'
import type { Submit } from './submit.ts'

export interface PostJobParts extends PollParts {
  readonly submit: Submit
  readonly streams: Streams
}

/** POST /jobs: accepts a job, and answers with it, with its events, or when it is done, as the client prefers. */
export function registerPostJob(app: FastifyInstance, parts: PostJobParts): void {
  const { submit, streams, holdOpen } = parts

  app.post('/jobs', needs('jobs:write'), async (request, reply) => {
    const representation = negotiate(request, ['json', 'sse', 'ndjson'])
    const waitS = preferredWait(request)
    const key = request.headers['idempotency-key']
    const isStream = representation !== 'json'
    const isHeld = (isStream || waitS !== null) && (await holdOpen(reply))
    if (isStream && !isHeld) throw tooManyStreams()
    const { job, replayed, first } = await submit.one(
      request.identity,
      request.body,
      key === undefined ? null : String(key),
      isHeld,
    )
    const { id } = job.record
    reply.header('location', `/jobs/${id}`).header('x-correlation-id', id)
    if (replayed) reply.header('idempotent-replayed', 'true')
    if (isStream) {
      return streams.open(reply, representation === 'sse' ? sse : ndjson, id, 0, first ? [first] : [])
    }
    // The job is accepted, and whoever has too many open may ask for it: a preference need not be met.
    if (waitS === null || !isHeld) return send(reply, job)
    reply.header('preference-applied', `wait=${waitS}`)
    return send(reply, await whenEnded(parts, reply, job, waitS))
  })
}

async function whenEnded(
  { store, follow, closing, watch }: PollParts,
  reply: FastifyReply,
  job: JobView,
  waitS: number,
): Promise<JobView> {
  const { id, tenant, status, seq } = job.record
  if (isTerminal(status)) return job
  const signal = AbortSignal.any([closing, hangUp(reply, watch)])
  await waitFor(follow, id, seq, ({ terminal }) => terminal, { waitMs: waitS * 1_000, signal, tenant })
  letGo(reply, closing)
  // Whose key was revoked meanwhile learns that the job was accepted, and nothing more.
  if (signal.reason instanceof Problem) return job
  return (await store.get(tenant, id)) ?? job
}

function send(reply: FastifyReply, { record, text }: JobView): FastifyReply {
  if (isTerminal(record.status)) reply.code(200)
  else reply.code(202).header('retry-after', 1)
  return reply.header('etag', `"${record.seq}"`).type('application/json; charset=utf-8').send(text)
}
