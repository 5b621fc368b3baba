import { createRemoteJWKSet, errors, jwtVerify, type JWTPayload } from 'jose'
import { Problem } from '../errors.ts'
import { digestOf } from './api-key.ts'
import { isScope, isTenant, unauthorized, type Identity } from './identity.ts'
import { createMemory } from './memory.ts'

/** What only the issuer can have signed. A secret that both sides know would make the gateway an issuer. */
const ALGORITHMS = [
  'RS256',
  'RS384',
  'RS512',
  'PS256',
  'PS384',
  'PS512',
  'ES256',
  'ES384',
  'ES512',
  'EdDSA',
  'Ed25519',
]
/** How much clocks may differ. */
const TOLERANCE_S = 5
/** How long a token that was verified is not looked at again. */
const KEEP_MS = 60_000
const FETCH_MS = 3_000
/** What goes wrong with the issuer's keys, and not with the token. */
const issuersFault = ['ERR_JOSE_GENERIC', 'ERR_JWKS_TIMEOUT', 'ERR_JWKS_INVALID']

export interface JwtSettings {
  /** Where the issuer shows its keys (RFC 7517). */
  readonly jwtJwksUrl: string
  readonly jwtIssuer: string
  readonly jwtAudience: string
  /** The claim that names the tenant. */
  readonly jwtTenantClaim: string
  /** The claim with the scopes: a text with spaces between them (RFC 8693 section 4.2), or a list. */
  readonly jwtScopeClaim: string
}

/** Whose token this is. @throws Problem `unauthorized`, `forbidden`, `authentication_unavailable` */
export type VerifyJwt = (token: string) => Identity | Promise<Identity>

/** What may be a JWT (RFC 7519). */
export function isJwt(text: string): boolean {
  return /^[\w-]+\.[\w-]+\.[\w-]+$/.test(text)
}

/**
 * Verifies the JWTs of the user's own issuer. Its keys are fetched when they are needed, kept for ten minutes, and fetched
 * again for a key that is not among them, at most every 30 s.
 *
 * @param now milliseconds since the epoch
 */
export function createVerifyJwt(settings: JwtSettings, now: () => number): VerifyJwt {
  const { jwtIssuer: issuer, jwtAudience: audience } = settings
  const keySet = createRemoteJWKSet(new URL(settings.jwtJwksUrl), { timeoutDuration: FETCH_MS })
  const verified = createMemory<Identity>()

  return (token) => {
    const digest = digestOf(token).toString('base64url')
    const known = verified.get(digest)
    if (known && (known.expiresAt ?? 0) > now()) return known
    return verify(token).then((identity) => {
      verified.set(digest, identity, KEEP_MS)
      return identity
    })
  }

  async function verify(token: string): Promise<Identity> {
    try {
      const { payload } = await jwtVerify(token, keySet, {
        issuer,
        audience,
        algorithms: ALGORITHMS,
        requiredClaims: ['exp'],
        clockTolerance: TOLERANCE_S,
        currentDate: new Date(now()),
      })
      return identityOf(payload, settings)
    } catch (cause) {
      if (cause instanceof Problem) throw cause
      if (cause instanceof errors.JOSEError && !issuersFault.includes(cause.code)) {
        throw unauthorized('The token is not one for this gateway, or has expired')
      }
      throw new Problem('authentication_unavailable', 'The keys of the issuer cannot be had', {
        retryAfterS: 5,
        cause,
      })
    }
  }
}

function identityOf(payload: JWTPayload, { jwtTenantClaim, jwtScopeClaim }: JwtSettings): Identity {
  const tenant = payload[jwtTenantClaim]
  if (!isTenant(tenant))
    throw new Problem('forbidden', `Expected a tenant in the claim ${jwtTenantClaim} of the token`)
  const scopes = payload[jwtScopeClaim]
  const named = Array.isArray(scopes)
    ? scopes.map(String)
    : typeof scopes === 'string'
      ? scopes.split(' ')
      : []
  return {
    id: `jwt:${nameOf(payload.sub ?? tenant)}`,
    tenant,
    scopes: new Set(named.filter(isScope)),
    types: null,
    expiresAt: ((payload.exp ?? 0) + TOLERANCE_S) * 1_000,
    keyId: null,
    job: null,
  }
}

/** A subject can be of any length, and of any characters. */
function nameOf(subject: string): string {
  return /^[\w.@|:+-]{1,128}$/.test(subject) ? subject : digestOf(subject).toString('base64url')
}
