import type { FastifyInstance } from 'fastify'
import { open } from './access/authenticate.ts'
import { Problem } from './errors.ts'
import type { Store } from './store/store.ts'

/** GET /livez: the process runs. GET /readyz: it can keep a promise, or why it cannot. */
export function registerHealth(
  app: FastifyInstance,
  { store, closing }: { readonly store: Store; readonly closing: AbortSignal },
): void {
  app.get('/livez', { ...open, logLevel: 'silent' }, async () => ({ status: 'ok' }))

  app.get('/readyz', { ...open, logLevel: 'silent' }, async () => {
    if (closing.aborted) throw new Problem('closing', undefined, { retryAfterS: 5 })
    await store.check().catch((cause: unknown) => {
      throw new Problem('store_unavailable', (cause as Error).message, { retryAfterS: 2, cause })
    })
    return { status: 'ready' }
  })
}
