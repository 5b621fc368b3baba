import type { FastifyInstance } from 'fastify'
import { needs } from './access/authenticate.ts'
import { endEarly, type CancelParts } from './cancel.ts'
import { createAjv, toViolations } from './catalog.ts'
import { invalid, Problem } from './errors.ts'
import { findJob } from './find-job.ts'
import { ignoreBody } from './ignore-body.ts'
import { callbackRequestSchema, isTerminal, type CallbackRequest } from './messages.ts'
import type { JudgeCallback } from './check-request.ts'

export interface ChangeJobParts extends CancelParts {
  readonly judgeCallback: JudgeCallback
}

type JobParams = { Params: { id: string } }

/** What a client may change of a job under way: end it, or say where its events are to go. */
export function registerChangeJob(app: FastifyInstance, parts: ChangeJobParts): void {
  const { store, judgeCallback } = parts
  const validate = createAjv().compile<CallbackRequest>(callbackRequestSchema)

  void app.register(async (scope) => {
    ignoreBody(scope)
    scope.post<JobParams>('/jobs/:id/cancel', needs('jobs:cancel'), async (request, reply) => {
      const { record } = await findJob(store, request)
      if (isTerminal(record.status) && record.status !== 'canceled') {
        throw new Problem('already_finished', `The job is ${record.status}`)
      }
      const after = await endEarly(parts, record.id, 'canceled', { force: false })
      if (after && isTerminal(after.status) && after.status !== 'canceled') {
        throw new Problem('already_finished', `The job is ${after.status}`)
      }
      const { text } = await findJob(store, request)
      return reply
        .code(after?.status === 'canceled' ? 200 : 202)
        .type('application/json; charset=utf-8')
        .send(text)
    })
  })

  // Whoever says where events go can read them there.
  app.put<JobParams>('/jobs/:id/callback', needs('jobs:write', 'jobs:read'), async (request, reply) => {
    const { record } = await findJob(store, request)
    const {
      callback_url: url,
      callback_events: events = null,
      after = 0,
    } = await check(record.tenant, request.body)
    if (after > record.seq) {
      throw new Problem('bad_cursor', `Expected at most ${record.seq}, the job's last seq, got ${after}`)
    }
    if (!(await store.deliveries.setCallback(record.id, { url, events }, after)))
      throw new Problem('not_found')
    const { text } = await findJob(store, request)
    return reply.type('application/json; charset=utf-8').send(text)
  })

  /** Every violation is reported, those of the body and of the return address together. */
  async function check(tenant: string, body: unknown): Promise<CallbackRequest> {
    const violations = validate(body) ? [] : toViolations(validate.errors ?? [])
    const { callback_url: url } = (body ?? {}) as Partial<CallbackRequest>
    const reason = typeof url === 'string' ? await judgeCallback(tenant, url) : null
    if (reason !== null) violations.push({ path: '/callback_url', message: reason })
    if (violations.length > 0) throw invalid(violations)
    return body as CallbackRequest
  }
}
