import {
  createHmac,
  createPrivateKey,
  createPublicKey,
  createSecretKey,
  randomBytes,
  sign as signWith,
  type KeyObject,
} from 'node:crypto'

const SECRET = 'whsec_'
const PRIVATE = 'whsk_'
const PUBLIC = 'whpk_'
const MIN_SECRET_BYTES = 24
const MAX_SECRET_BYTES = 64
const SEED_BYTES = 32
/** Every key is a signature in a header, and clients/ look at no more of them: longer ones only keep a receiver busy. */
const MAX_KEYS = 16
/** What stands before the seed in the DER of an Ed25519 private key (RFC 8410 section 7). */
const PKCS8_HEAD = Buffer.from('302e020100300506032b657004220420', 'hex')

/** What webhooks are signed with. */
export interface SigningKeys {
  /** The keys to sign a tenant's webhooks with, each of them: its own, or else those for all. Empty when none apply. */
  of(tenant: string): readonly KeyObject[]
}

/**
 * Reads the keys that webhooks are signed with. More than one is for rotation: sign with the old and the new until
 * every receiver knows the new one.
 *
 * @param text comma-separated `whsec_<base64>` (24 to 64 bytes, for HMAC-SHA256) and `whsk_<base64>` (an Ed25519 seed of
 *   32 bytes, or the seed and its public key); `<tenant>:` before one makes it that tenant's. Space around the commas
 *   is ignored. At most 16 are for the same tenant, or for all
 * @throws an Error that names the position (from 1) and what is wrong with it, and never any of the text
 * @see https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md#signature-scheme
 */
export function parseSigningKeys(text: string): SigningKeys {
  const entries = text.split(',').map((entry, index) => parseEntry(entry.trim(), index + 1))
  const keys = new Map<string | null, KeyObject[]>()
  for (const { tenant, key } of entries) keys.set(tenant, [...(keys.get(tenant) ?? []), key])
  const most = Math.max(...[...keys.values()].map(({ length }) => length))
  if (most > MAX_KEYS) throw new Error(`Expected at most ${MAX_KEYS} keys for one tenant, got ${most}`)
  return { of: (tenant) => keys.get(tenant) ?? keys.get(null) ?? [] }
}

/**
 * Signs one try of a webhook (Standard Webhooks).
 *
 * @param keys of the tenant, from {@link parseSigningKeys}
 * @param message.id the `webhook-id`, the same at every try; issued by the gateway, as it may hold a full stop
 * @param message.timestamp when this try is made, in whole seconds since the epoch
 * @param message.body the body, exactly as sent
 * @returns the `webhook-signature` header: `v1,<base64>` or `v1a,<base64>` for each key, separated by spaces
 */
export function sign(
  keys: readonly KeyObject[],
  message: { id: string; timestamp: number; body: string },
): string {
  const content = Buffer.from(`${message.id}.${message.timestamp}.${message.body}`)
  return keys.map((key) => signOnce(key, content)).join(' ')
}

/**
 * Makes a key for HMAC-SHA256, which the gateway and the receiver share.
 *
 * @returns `whsec_` and 32 random bytes in base64
 */
export function generateSecret(): string {
  return SECRET + randomBytes(32).toString('base64')
}

/**
 * Makes a key for Ed25519, which the gateway alone has.
 *
 * @returns `whsk_` and the seed in base64, as {@link parseSigningKeys} reads it
 */
export function generatePrivateKey(): string {
  return PRIVATE + randomBytes(SEED_BYTES).toString('base64')
}

/**
 * What a receiver verifies with.
 *
 * @param privateKey a `whsk_`, of a tenant or not
 * @returns `whpk_` and the public key in base64
 * @throws as {@link parseSigningKeys}
 */
export function publicKeyOf(privateKey: string): string {
  const { key } = parseEntry(privateKey.trim(), 1)
  if (key.type !== 'private') throw new Error(`Expected a key that begins with ${PRIVATE}, got ${SECRET}`)
  return PUBLIC + publicBytes(key).toString('base64')
}

function signOnce(key: KeyObject, content: Buffer): string {
  if (key.type === 'private') return `v1a,${signWith(null, content, key).toString('base64')}`
  return `v1,${createHmac('sha256', key).update(content).digest('base64')}`
}

function parseEntry(entry: string, position: number): { tenant: string | null; key: KeyObject } {
  const refusal = (got: string) =>
    new Error(
      `Expected ${SECRET}<base64 of ${MIN_SECRET_BYTES} to ${MAX_SECRET_BYTES} bytes> or ` +
        `${PRIVATE}<base64 of ${SEED_BYTES} bytes>, a tenant's own after <tenant>:, as key ${position}, got ${got}`,
    )
  const colon = entry.indexOf(':')
  const tenant = colon === -1 ? null : entry.slice(0, colon)
  if (tenant !== null && !/^\S+$/.test(tenant)) throw refusal('a tenant that is empty or has spaces')
  return { tenant, key: parseKey(entry.slice(colon + 1), refusal) }
}

function parseKey(text: string, refusal: (got: string) => Error): KeyObject {
  if (text === '') throw refusal('nothing')
  const [, prefix = '', encoded = ''] = /^(whsec_|whsk_|whpk_)(.*)$/s.exec(text) ?? []
  if (prefix === '') throw refusal('another prefix')
  if (prefix === PUBLIC) throw refusal('a public key, which signs nothing')
  const bytes = Buffer.from(encoded, 'base64')
  // Buffer skips what is not base64, while receivers refuse it: only the canonical form is the same key to both.
  if (bytes.toString('base64') !== encoded) throw refusal('text that is not padded base64')
  const key = prefix === SECRET ? toSecretKey(bytes) : toPrivateKey(bytes)
  if (key === null) throw refusal(`${prefix} of ${bytes.length} bytes that are no key`)
  return key
}

function toSecretKey(bytes: Buffer): KeyObject | null {
  const isFit = bytes.length >= MIN_SECRET_BYTES && bytes.length <= MAX_SECRET_BYTES
  return isFit ? createSecretKey(bytes) : null
}

/** The seed alone is what the Go library of Standard Webhooks reads, the seed and its public key what Svix does. */
function toPrivateKey(bytes: Buffer): KeyObject | null {
  const [seed, rest] = [bytes.subarray(0, SEED_BYTES), bytes.subarray(SEED_BYTES)]
  if (seed.length < SEED_BYTES) return null
  const key = createPrivateKey({ key: Buffer.concat([PKCS8_HEAD, seed]), format: 'der', type: 'pkcs8' })
  return rest.length === 0 || rest.equals(publicBytes(key)) ? key : null
}

function publicBytes(key: KeyObject): Buffer {
  return Buffer.from(createPublicKey(key).export({ format: 'jwk' }).x ?? '', 'base64url')
}
