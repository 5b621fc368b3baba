import type { FastifyInstance } from 'fastify'
import type { Access } from './access.ts'
import { demand, type Identity, type Scope } from './identity.ts'

/** What a route asks of whoever calls it. */
export interface Needs {
  readonly scopes: readonly Scope[]
  /** Whether a token for the job that it names will do instead, which may also come as `?token=`. */
  readonly orJobToken: boolean
}

declare module 'fastify' {
  interface FastifyContextConfig {
    /** Without it a route needs the scope `admin`; `open` lets everybody in. */
    needs?: Needs | 'open'
  }
  interface FastifyRequest {
    /** Who asks; null on routes that are open. */
    identity: Identity
  }
}

const admin: Needs = { scopes: ['admin'], orJobToken: false }

/** For the options of a route. */
export function needs(...scopes: Scope[]): { readonly config: { readonly needs: Needs } } {
  return { config: { needs: { scopes, orJobToken: false } } }
}

/** For the options of a route that reads the one job in its path. */
export const needsToRead = { config: { needs: { scopes: ['jobs:read'], orJobToken: true } } } as const
export const open = { config: { needs: 'open' } } as const

/** Lets nobody in whom {@link Access} does not know, or who lacks a scope; before any of the body is read. */
export function registerAuthenticate(app: FastifyInstance, { identify }: Pick<Access, 'identify'>): void {
  app.decorateRequest('identity', null as unknown as Identity)

  app.addHook('onRequest', (request, reply, done) => {
    const { config, url: route = '' } = request.routeOptions
    const { needs = admin } = config
    if (needs === 'open' || request.is404) return done()
    const enter = (identity: Identity): void => {
      // A URL with a token in it is no secret to caches on the way.
      if (identity.job !== null) reply.header('cache-control', 'no-store')
      request.identity = identity
    }
    try {
      const { method, headers } = request
      const params = request.params as Record<string, string>
      const { token: urlToken } = needs.orJobToken ? (request.query as { token?: unknown }) : {}
      const found = identify({
        method,
        route,
        params,
        headers,
        urlToken,
        get address() {
          return request.ip
        },
      })
      // oxlint-disable-next-line promise/no-callback-in-promise -- only a hook with a callback may be synchronous
      if (found instanceof Promise) return void found.then(enter).then(() => done(), done)
      enter(found)
    } catch (error) {
      return done(error as Error)
    }
    done()
  })

  // What somebody may not do counts as his request all the same, and onRequest is where it is counted.
  app.addHook('preParsing', ({ identity, routeOptions: { config } }, _reply, payload, done) => {
    const { needs = admin } = config
    try {
      if (identity !== null && needs !== 'open') admit(identity, needs)
    } catch (error) {
      return done(error as Error)
    }
    done(null, payload)
  })
}

function admit(identity: Identity, { scopes, orJobToken }: Needs): void {
  if (identity.job === null || !orJobToken) demand(identity, scopes)
}
