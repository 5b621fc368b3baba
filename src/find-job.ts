import type { FastifyRequest } from 'fastify'
import { authenticate } from './authenticate.ts'
import { Problem } from './errors.ts'
import { isCorrelationId } from './messages.ts'
import type { JobView, Store } from './store/store.ts'

/** The job that a request names. @throws Problem `not_found`, also for another tenant's */
export async function findJob(
  store: Store,
  request: FastifyRequest<{ Params: { id: string } }>,
): Promise<JobView> {
  const { id } = request.params
  const job = isCorrelationId(id) ? await store.get(authenticate(request), id) : null
  if (!job) throw new Problem('not_found', `No job ${id}`)
  return job
}
