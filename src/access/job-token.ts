import { createHmac, randomBytes } from 'node:crypto'
import type { Store } from '../store/store.ts'
import { isSame } from './api-key.ts'
import { unauthorized, type Identity } from './identity.ts'
import type { KeyRing } from './key-ring.ts'

/** How long the secret is taken for the one of the store. */
const SECRET_MS = 60_000
const pattern = /^(qt_[\w-]{1,1024})\.([\w-]{43})$/

/** What a token says, in few letters as it stands in URLs. */
interface Claims {
  /** The job. */
  readonly j: string
  readonly t: string
  /** Whoever issued it, and the API key by which he did. */
  readonly i: string
  readonly k: string | null
  /** Its end, in ms since the epoch. */
  readonly e: number
}

/** Tokens for reading one job, for those who cannot send headers and must not have a key: browsers. */
export interface JobTokens {
  /** `qt_<claims>.<HMAC-SHA256>`. It ends with what it was issued by, if that is sooner. */
  issue(
    identity: Identity,
    job: string,
    ttlS: number,
  ): Promise<{ readonly token: string; readonly expiresAt: number }>
  /** @throws Problem `unauthorized`; the driver's error when the store is away */
  verify(token: string): Promise<Identity>
}

export interface JobTokensParts {
  readonly store: Pick<Store, 'apiKeys' | 'now'>
  /** Null where keys are not asked for: then a token that was issued by one is worth nothing. */
  readonly keyRing: Pick<KeyRing, 'find'> | null
}

export function createJobTokens({ store, keyRing }: JobTokensParts): JobTokens {
  let known: { readonly secret: string; readonly at: number } | null = null

  return {
    async issue({ id, tenant, keyId, expiresAt: end }, job, ttlS) {
      const expiresAt = Math.min(store.now() + ttlS * 1_000, end ?? Infinity)
      const claims: Claims = { j: job, t: tenant, i: id, k: keyId, e: expiresAt }
      const body = `qt_${Buffer.from(JSON.stringify(claims)).toString('base64url')}`
      return { token: `${body}.${sign(await readSecret(), body)}`, expiresAt }
    },

    async verify(token) {
      const [, body = '', signature = ''] = pattern.exec(token) ?? []
      const isSigned =
        body !== '' && isSame(Buffer.from(signature), Buffer.from(sign(await readSecret(), body)))
      if (!isSigned) throw refusal()
      const { j: job, t: tenant, i: id, k: keyId, e: expiresAt } = claimsOf(body)
      if (expiresAt <= store.now()) throw refusal()
      if (keyId !== null && !(await keyRing?.find(keyId))) throw refusal()
      return { id, tenant, scopes: new Set(), types: new Set(), expiresAt, keyId, job }
    },
  }

  async function readSecret(): Promise<string> {
    if (known && performance.now() - known.at < SECRET_MS) return known.secret
    const at = performance.now()
    const secret = await store.apiKeys.tokenSecret(randomBytes(32).toString('base64url'))
    known = { secret, at }
    return secret
  }
}

function sign(secret: string, body: string): string {
  return createHmac('sha256', secret).update(body).digest('base64url')
}

function claimsOf(body: string): Claims {
  return JSON.parse(Buffer.from(body.slice('qt_'.length), 'base64url').toString()) as Claims
}

function refusal() {
  return unauthorized('The token is not valid, has expired, or the key that it was issued by was revoked')
}
