import type { FastifyInstance } from 'fastify'
import type { Access } from './access/access.ts'
import { needs } from './access/authenticate.ts'
import { createAjv, toViolations } from './catalog.ts'
import { invalid } from './errors.ts'
import { findJob } from './find-job.ts'
import { MAX_TOKEN_TTL_S, tokenRequestSchema, type TokenRequest } from './messages.ts'
import type { Store } from './store/store.ts'

export interface GiveTokenParts extends Pick<Access, 'tokens'> {
  readonly store: Store
}

/** POST /jobs/{id}/tokens: a token for reading this one job, for a browser that must not have a key. */
export function registerGiveToken(app: FastifyInstance, { store, tokens }: GiveTokenParts): void {
  const validate = createAjv().compile<TokenRequest>(tokenRequestSchema)

  app.post<{ Params: { id: string } }>('/jobs/:id/tokens', needs('jobs:read'), async (request, reply) => {
    const { record } = await findJob(store, request)
    const body: unknown = request.body ?? {}
    if (!validate(body)) throw invalid(toViolations(validate.errors ?? []))
    const { token, expiresAt } = await tokens.issue(
      request.identity,
      record.id,
      body.ttl_s ?? MAX_TOKEN_TTL_S,
    )
    return reply
      .code(201)
      .header('cache-control', 'no-store')
      .send({ token, job_id: record.id, expires_at: new Date(expiresAt).toISOString() })
  })
}
