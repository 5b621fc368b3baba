import { hash, randomBytes, timingSafeEqual } from 'node:crypto'
import type { ApiKey, ApiKeys } from '../store/api-keys.ts'
import type { Identity, Scope } from './identity.ts'

const pattern = /^qk_([0-9a-f]{16})_[\w-]{43}$/

/** What is said of a new key. */
export type NewApiKey = Pick<ApiKey, 'tenant' | 'types' | 'name' | 'createdAt' | 'expiresAt'> & {
  readonly scopes: readonly Scope[]
}

/**
 * Makes a key and keeps what is to be known of it.
 *
 * @returns the key, `qk_<id>_<secret>`, which cannot be had again, and its id
 */
export async function createApiKey(
  keys: Pick<ApiKeys, 'add'>,
  given: NewApiKey,
): Promise<{ readonly id: string; readonly key: string }> {
  const id = randomBytes(8).toString('hex')
  const key = `qk_${id}_${randomBytes(32).toString('base64url')}`
  await keys.add({ ...given, id, digest: digestOf(key).toString('base64url') })
  return { id, key }
}

/** The id in a key; null if the text is none. */
export function idOfKey(text: string): string | null {
  return pattern.exec(text)?.[1] ?? null
}

/** SHA-256: a key has 256 random bits, so nothing slower is needed to keep it from being guessed. */
export function digestOf(text: string): Buffer {
  return hash('sha256', text, 'buffer')
}

/** In a time that says nothing of where they differ. */
export function isSame(digest: Buffer, other: Buffer): boolean {
  return digest.length === other.length && timingSafeEqual(digest, other)
}

export function identityOfKey({ id, tenant, scopes, types, expiresAt }: ApiKey): Identity {
  return {
    id: `key:${id}`,
    tenant,
    scopes: new Set(scopes as readonly Scope[]),
    types: types && new Set(types),
    expiresAt,
    keyId: id,
    job: null,
  }
}
