import type { FastifyRequest } from 'fastify'
import type { Identity } from './access/identity.ts'
import { Problem } from './errors.ts'
import { isCorrelationId } from './messages.ts'
import type { JobView, Store } from './store/store.ts'

/** The job that a request names. @throws Problem `not_found`, also for another tenant's */
export function findJob(
  store: Store,
  { identity, params }: FastifyRequest<{ Params: { id: string } }>,
): Promise<JobView> {
  return findJobOf(store, identity, params.id)
}

/** @throws Problem `not_found`, also for another tenant's, or for one that a token is not for */
export async function findJobOf(
  store: Store,
  { tenant, job: only }: Pick<Identity, 'tenant' | 'job'>,
  id: string,
): Promise<JobView> {
  const job = isCorrelationId(id) && (only ?? id) === id ? await store.get(tenant, id) : null
  if (!job) throw new Problem('not_found', `No job ${id}`)
  return job
}
