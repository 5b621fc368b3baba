import { setTimeout as delay } from 'node:timers/promises'
import type { FastifyBaseLogger } from 'fastify'
import type { Store } from '../store/store.ts'
import { digestOf, idOfKey, identityOfKey, isSame } from './api-key.ts'
import { unauthorized, type Identity } from './identity.ts'

const CHECK_MS = 400
/** A key counts as known for so long after it was last certain that none was revoked, and no longer. */
const TTL_MS = 900
/** Keys that are remembered; more are asked for each time they come back. */
const MAX_KNOWN = 10_000

/** The API keys that this process has seen, and those on whom something long depends. */
export interface KeyRing {
  /**
   * Whose key this is; at once if it is remembered.
   * @throws Problem `unauthorized`; or rejects with it, or with the driver's error when the store is away
   */
  verify(key: string): Identity | Promise<Identity>
  /** Whose key has this id; null if it was revoked or has expired. */
  find(id: string): Identity | null | Promise<Identity | null>
  /** Calls `end` once the key is revoked. */
  watch(id: string, end: () => void): () => void
  /** Hears of revocations until the signal ends it. */
  keepUp(signal: AbortSignal): Promise<void>
}

interface Known {
  readonly identity: Identity
  readonly digest: Buffer
  /** The count of revocations at which the key was there. */
  readonly revocations: number
}

export interface KeyRingParts {
  readonly store: Pick<Store, 'apiKeys' | 'now'>
  readonly log: FastifyBaseLogger
}

/**
 * A key is read from the store once, and then holds as long as nothing was revoked since. That is looked at often enough
 * that no message has to arrive for a revoked key to be refused within a second; one only makes it quicker. While the store
 * is away nobody is let in by what was known before.
 *
 * @param clock milliseconds, from whenever, that never go back
 */
export function createKeyRing({ store, log }: KeyRingParts, clock = () => performance.now()): KeyRing {
  const { apiKeys } = store
  const known = new Map<string, Known>()
  const watchers = new Map<string, Set<() => void>>()
  let revocations = Number.NaN
  let certainAt = -Infinity

  return { verify, find, watch, keepUp }

  function verify(key: string): Identity | Promise<Identity> {
    const id = idOfKey(key)
    if (id === null) throw refusal()
    const digest = digestOf(key)
    const entry = fresh(id)
    return entry ? admit(entry, digest) : load(id).then((loaded) => admit(loaded, digest))
  }

  function find(id: string): Identity | null | Promise<Identity | null> {
    const entry = fresh(id)
    return entry ? unexpired(entry) : load(id).then(unexpired)
  }

  function fresh(id: string): Known | null {
    const entry = known.get(id)
    const isFresh = entry?.revocations === revocations && clock() - certainAt < TTL_MS
    return isFresh ? entry : null
  }

  async function load(id: string): Promise<Known | null> {
    const askedAt = clock()
    const { key, revocations: count } = await apiKeys.find(id)
    observe(count, askedAt)
    if (!key) {
      known.delete(id)
      return null
    }
    if (known.size >= MAX_KNOWN) known.clear()
    const entry = {
      identity: identityOfKey(key),
      digest: Buffer.from(key.digest, 'base64url'),
      revocations: count,
    }
    known.set(id, entry)
    return entry
  }

  function observe(count: number, askedAt: number): void {
    revocations = count
    certainAt = Math.max(certainAt, askedAt)
  }

  function admit(entry: Known | null, digest: Buffer): Identity {
    const identity = entry && isSame(entry.digest, digest) ? unexpired(entry) : null
    if (!identity) throw refusal()
    return identity
  }

  function unexpired(entry: Known | null): Identity | null {
    const expiresAt = entry?.identity.expiresAt ?? null
    return expiresAt !== null && expiresAt <= store.now() ? null : (entry?.identity ?? null)
  }

  function watch(id: string, end: () => void): () => void {
    const ends = watchers.get(id) ?? new Set()
    watchers.set(id, ends.add(end))
    return () => {
      ends.delete(end)
      if (ends.size === 0 && watchers.get(id) === ends) watchers.delete(id)
    }
  }

  async function keepUp(signal: AbortSignal): Promise<void> {
    let isFailing = false
    const look = async () => {
      try {
        await check()
        isFailing = false
      } catch (err) {
        if (!isFailing && !signal.aborted) log.warn({ err }, 'revoked keys cannot be looked for')
        isFailing = true
      }
    }
    const unfollow = apiKeys.onRevoked(() => void look())
    while (!signal.aborted) {
      await look()
      await delay(CHECK_MS, undefined, { signal }).catch(() => undefined)
    }
    unfollow()
  }

  /** What is open by a key that is gone, is ended. Others are looked at when they are used again. */
  async function check(): Promise<void> {
    const askedAt = clock()
    observe(await apiKeys.revocations(), askedAt)
    const doubtful = [...watchers.keys()].filter((id) => known.get(id)?.revocations !== revocations)
    await Promise.all(
      doubtful.map(async (id) => {
        if (await load(id)) return
        for (const end of watchers.get(id) ?? []) end()
      }),
    )
  }
}

function refusal() {
  return unauthorized('The API key is unknown, was revoked or has expired')
}
