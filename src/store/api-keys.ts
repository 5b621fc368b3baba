/**
 * The API keys: who may do what. Of a key itself only its SHA-256 is kept. Few are added and revoked, and many are asked
 * for: whoever remembers one compares {@link ApiKeys.revocations}, and asks again for what it knows once that has changed.
 */
export interface ApiKeys {
  add(key: ApiKey): Promise<void>

  /** A key, null if there is none, and the count of revocations as of the same moment. */
  find(id: string): Promise<FoundKey>

  /** How many keys have ever been revoked. */
  revocations(): Promise<number>

  /** Every key that was not revoked, also those that have expired, the oldest first. */
  list(): Promise<readonly ApiKey[]>

  /** From now on there is no such key. False: there was none. */
  revoke(id: string): Promise<boolean>

  /** Calls `listener` soon after a key was revoked, and whenever that may have been missed. */
  onRevoked(listener: () => void): () => void

  /** The secret that job tokens are signed with, the same for all nodes: `candidate` if there is none yet. */
  tokenSecret(candidate: string): Promise<string>
}

export interface ApiKey {
  /** Public: what it is called by in lists, logs and limits. */
  readonly id: string
  /** SHA-256 of the whole key, base64url. */
  readonly digest: string
  readonly tenant: string
  readonly scopes: readonly string[]
  /** The types of job that it may submit; null for all. */
  readonly types: readonly string[] | null
  /** For people. */
  readonly name: string | null
  readonly createdAt: number
  readonly expiresAt: number | null
}

export interface FoundKey {
  readonly key: ApiKey | null
  readonly revocations: number
}
