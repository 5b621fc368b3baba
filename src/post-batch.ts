import type { FastifyInstance } from 'fastify'
import { needs } from './access/authenticate.ts'
import type { Requests } from './access/limit-requests.ts'
import { createAjv, toViolations } from './catalog.ts'
import { negotiate } from './deliver/negotiate.ts'
import { invalid, Problem, toProblem } from './errors.ts'
import { batchRequestSchema, isTerminal, type BatchRequest } from './messages.ts'
import type { Requested, Submit, Submitted } from './submit.ts'

export interface PostBatchParts {
  readonly submit: Submit
  /** Null where they are not limited. */
  readonly requests: Requests | null
  /** Told of each problem that an item is answered with. */
  readonly countProblem: (problem: Problem) => void
  /** Bytes. */
  readonly bodyLimit: number
}

/** POST /jobs/batch: each of many jobs as if it came alone, and what became of each, in their order. */
export function registerPostBatch(app: FastifyInstance, parts: PostBatchParts): void {
  const { submit, requests, countProblem, bodyLimit } = parts
  const validate = createAjv().compile<BatchRequest>(batchRequestSchema)

  app.post('/jobs/batch', { ...needs('jobs:write'), bodyLimit }, async (request, reply) => {
    negotiate(request, ['json'])
    // Who sends it counts on it, and for the whole of a batch there is none.
    if (request.headers['idempotency-key'] !== undefined) {
      throw new Problem(
        'malformed_request',
        'Expected an idempotency_key in each job, and no Idempotency-Key',
      )
    }
    const { body } = request
    if (!validate(body)) throw invalid(toViolations(validate.errors ?? []))
    const tooMany = (await requests?.countItems(request, reply, body.jobs.length)) ?? null
    const jobs = body.jobs.slice(0, body.jobs.length - (tooMany?.items ?? 0))
    const outcomes = await submit.many(request.identity, jobs.map(toRequested))
    const refused = body.jobs
      .slice(jobs.length)
      .map(() => ({ status: 'rejected', reason: tooMany?.problem }) as const)
    const texts = [...outcomes, ...refused].map((outcome) => {
      if (outcome.status === 'fulfilled') return acceptedText(outcome.value)
      const problem = toProblem(outcome.reason)
      countProblem(problem)
      if (problem.code === 'internal') request.log.error({ err: problem.cause }, 'a job of a batch failed')
      return `{"status":${problem.status},"problem":${JSON.stringify(problem)}}`
    })
    return reply.type('application/json; charset=utf-8').send(`{"outcomes":[${texts.join(',')}]}`)
  })
}

/** An item is the body of POST /jobs, with its key in it. */
function toRequested(item: unknown): Requested {
  if (typeof item !== 'object' || item === null || Array.isArray(item) || !('idempotency_key' in item)) {
    return { body: item, idempotencyKey: null }
  }
  const { idempotency_key: key, ...body } = item
  return { body, idempotencyKey: typeof key === 'string' ? key : '' }
}

function acceptedText({ job: { record, text }, replayed }: Submitted): string {
  const status = isTerminal(record.status) ? 200 : 202
  return `{"status":${status},${replayed ? '"replayed":true,' : ''}"job":${text}}`
}
