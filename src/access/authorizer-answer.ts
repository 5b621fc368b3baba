import { createAjv } from '../catalog.ts'
import { Problem } from '../errors.ts'
import { isScope, isTenant, unauthorized, type Identity } from './identity.ts'

/** A longer promise is not believed: somebody may have to be shut out. Seconds. */
const LONGEST_S = 3_600

/** What an authorizer says of a request. */
export interface Verdict {
  readonly outcome: Identity | Problem
  /** How long it says so. */
  readonly forMs: number
  /** All that it looked at, lower-case names of headers, `method` and `path`; null if it may be anything. */
  readonly varyBy: readonly string[] | null
}

/** The answer cannot be used, whatever it was to say. */
export class AnswerError extends Error {
  override readonly name = 'AnswerError'
  /** Whether it may be for something in this one request: then it says nothing of the authorizer. */
  readonly isForThisRequest: boolean

  constructor(message: string, isForThisRequest = false) {
    super(message)
    this.isForThisRequest = isForThisRequest
  }
}

interface Answer {
  readonly tenant: string
  readonly scopes: readonly string[]
  readonly types?: readonly string[]
  readonly key_id?: string
  readonly vary_by?: readonly string[]
}

const names = { type: 'array', items: { type: 'string' } }
const validate = createAjv().compile<Answer>({
  type: 'object',
  required: ['tenant', 'scopes'],
  properties: {
    tenant: { type: 'string' },
    scopes: names,
    types: names,
    key_id: { type: 'string', pattern: '^[\\w.@|:+-]{1,128}$' },
    vary_by: { ...names, minItems: 1 },
  },
})

/**
 * Reads an authorizer's answer: 2xx with JSON, or 401 or 403 with anything.
 *
 * @param headers the names in lower case
 * @throws AnswerError
 */
export function readAnswer(
  statusCode: number,
  headers: Readonly<Record<string, string | string[] | undefined>>,
  body: string,
): Verdict {
  const forMs = freshnessOf(String(headers['cache-control'] ?? ''), Number(headers['age'] ?? 0))
  if (statusCode === 401) {
    const detail = 'The authorizer does not know who this is'
    return { outcome: unauthorized(detail, challengeOf(headers)), forMs, varyBy: null }
  }
  if (statusCode === 403) {
    const outcome = new Problem('forbidden', 'The authorizer does not allow this')
    return { outcome, forMs, varyBy: null }
  }
  if (statusCode < 200 || statusCode > 299) {
    throw new AnswerError(
      `Expected 2xx, 401 or 403, got ${statusCode}`,
      statusCode >= 400 && statusCode < 500,
    )
  }
  const answer = parse(body)
  if (!validate(answer) || !isTenant(answer.tenant)) {
    throw new AnswerError('Expected JSON with a tenant and scopes, got something else')
  }
  const varyBy = answer.vary_by?.map((name) => name.toLowerCase()) ?? null
  return { outcome: identityOf(answer), forMs, varyBy }
}

function identityOf({ tenant, scopes, types, key_id }: Answer): Identity {
  return {
    id: `authorizer:${key_id ?? tenant}`,
    tenant,
    scopes: new Set(scopes.filter(isScope)),
    types: types ? new Set(types) : null,
    expiresAt: null,
    keyId: null,
    job: null,
  }
}

/** RFC 9111 section 5.2.2: only what is promised is kept. @returns milliseconds */
function freshnessOf(cacheControl: string, ageS: number): number {
  if (/\bno-(store|cache)\b/i.test(cacheControl)) return 0
  const maxAgeS = Number(/(?:^|[\s,])max-age="?(\d{1,9})/i.exec(cacheControl)?.[1] ?? 0)
  const leftS = maxAgeS - (ageS > 0 ? ageS : 0)
  return Math.max(0, Math.min(leftS, LONGEST_S)) * 1_000
}

function challengeOf(headers: Readonly<Record<string, string | string[] | undefined>>): string {
  const given = String(headers['www-authenticate'] ?? '')
  return /^[\t\x20-\x7e]{1,1024}$/.test(given) ? given : 'Bearer'
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return null
  }
}
