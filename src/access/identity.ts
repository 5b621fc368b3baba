import { Problem } from '../errors.ts'

/** What a key may be for. None includes another: whoever reads `/metrics` need not see a single job. */
export const scopes = ['jobs:write', 'jobs:read', 'jobs:cancel', 'admin'] as const
export type Scope = (typeof scopes)[number]

/** Who asks, and what he may do. Every route has it as `request.identity`, a WebSocket from its `init` on. */
export interface Identity {
  /**
   * What limits count by and logs show, never a secret: `key:<id>`, `jwt:<subject>`, `authorizer:<id>` or `anonymous`. A
   * job token counts as whoever issued it.
   */
  readonly id: string
  readonly tenant: string
  readonly scopes: ReadonlySet<Scope>
  /** The types of job that it may submit; null for all. */
  readonly types: ReadonlySet<string> | null
  /** From when on it is nobody, in ms since the epoch by the store's clock; null for never. */
  readonly expiresAt: number | null
  /** The API key whose revocation is the end of it; null for none. */
  readonly keyId: string | null
  /** The one job that it may read, and nothing else: what a job token is for. Null for whatever the scopes say. */
  readonly job: string | null
}

/** Whoever reaches a gateway that asks for nothing. */
export const anonymous: Identity = Object.freeze({
  id: 'anonymous',
  tenant: 'default',
  scopes: new Set(scopes),
  types: null,
  expiresAt: null,
  keyId: null,
  job: null,
})

/** What tenants are called: part of the names of keys in Redis, and of metrics and logs. */
export function isTenant(text: unknown): text is string {
  return typeof text === 'string' && /^[\w.@-]{1,64}$/.test(text)
}

export function isScope(text: string): text is Scope {
  return (scopes as readonly string[]).includes(text)
}

/** @throws Problem `missing_scope` that names the first of `wanted` that is not there */
export function demand(identity: Identity, wanted: readonly Scope[]): void {
  for (const scope of wanted) {
    if (!identity.scopes.has(scope)) throw missingScope(scope)
  }
}

/** @throws Problem `type_not_allowed`, also for types that do not exist */
export function demandType({ types }: Pick<Identity, 'types'>, type: string): void {
  if (types === null || types.has(type)) return
  throw new Problem('type_not_allowed', `Expected one of ${[...types].join(', ')}`)
}

function missingScope(scope: Scope): Problem {
  const challenge = `Bearer error="insufficient_scope", scope="${scope}"`
  return new Problem('missing_scope', `Expected the scope ${scope}`, { challenge })
}

/** @param detail says what was expected, and never what came */
export function unauthorized(detail: string, challenge = 'Bearer error="invalid_token"'): Problem {
  return new Problem('unauthorized', detail, { challenge })
}
