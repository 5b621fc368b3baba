import type { FastifyInstance } from 'fastify'
import { endEarly, type CancelParts } from './cancel.ts'
import { createAjv, toViolations } from './catalog.ts'
import { findJob } from './deliver/poll.ts'
import { Problem } from './errors.ts'
import type { HandOver } from './follow-up.ts'
import { callbackRequestSchema, isTerminal, type CallbackRequest } from './messages.ts'
import type { JudgeCallback } from './submit.ts'

export interface ChangeJobParts extends CancelParts {
  readonly judgeCallback: JudgeCallback
  readonly handOver: HandOver
}

type JobParams = { Params: { id: string } }

/** What a client may change of a job under way: end it, or say where its events are to go. */
export function registerChangeJob(app: FastifyInstance, parts: ChangeJobParts): void {
  const { store, judgeCallback, handOver } = parts
  const validate = createAjv().compile<CallbackRequest>(callbackRequestSchema)

  app.post<JobParams>('/jobs/:id/cancel', async (request, reply) => {
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

  app.put<JobParams>('/jobs/:id/callback', async (request, reply) => {
    const { record } = await findJob(store, request)
    const { body } = request
    if (!validate(body)) {
      const errors = toViolations(validate.errors ?? [])
      throw new Problem('invalid', `${errors[0]?.path} ${errors[0]?.message}`, { errors })
    }
    const reason = await judgeCallback(body.callback_url)
    if (reason !== null) {
      throw new Problem('invalid', `/callback_url ${reason}`, {
        errors: [{ path: '/callback_url', message: reason }],
      })
    }
    const { callback_url: url, callback_events: events = null, after = 0 } = body
    if (!(await store.setCallback(record.id, { url, events }, after))) throw new Problem('not_found')
    await handOver(record.id)
    const { text } = await findJob(store, request)
    return reply.type('application/json; charset=utf-8').send(text)
  })
}
