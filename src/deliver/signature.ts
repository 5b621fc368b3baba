import { createHmac, randomBytes } from 'node:crypto'

const PREFIX = 'whsec_'
const MIN_BYTES = 24
const MAX_BYTES = 64

/**
 * Reads the keys that webhooks are signed with. More than one is for rotation: sign with the old and the new
 * until every receiver knows the new one.
 *
 * @param text comma-separated `whsec_<base64>`, each of 24 to 64 bytes; space around the commas is ignored
 * @returns the keys, in the order given
 * @throws an Error that names the position (from 1) and what is wrong with it, and never any of the secret
 * @see https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md#signature-scheme
 */
export function parseSecrets(text: string): readonly Buffer[] {
  return text.split(',').map((entry, index) => parseSecret(entry.trim(), index + 1))
}

/**
 * Makes a key to sign webhooks with.
 *
 * @returns `whsec_` and 32 random bytes in base64, as {@link parseSecrets} reads it
 */
export function generateSecret(): string {
  return PREFIX + randomBytes(32).toString('base64')
}

/**
 * Signs one try of a webhook (symmetric Standard Webhooks, `v1`).
 *
 * @param secrets the keys from {@link parseSecrets}
 * @param message.id the `webhook-id`, the same at every try; issued by the gateway, as it may hold a full stop
 * @param message.timestamp when this try is made, in whole seconds since the epoch
 * @param message.body the body, exactly as sent
 * @returns the `webhook-signature` header: one `v1,<base64>` for each key, separated by spaces
 */
export function sign(secrets: readonly Buffer[], message: { id: string; timestamp: number; body: string }) {
  const content = `${message.id}.${message.timestamp}.${message.body}`
  return secrets.map((key) => `v1,${createHmac('sha256', key).update(content).digest('base64')}`).join(' ')
}

function parseSecret(entry: string, position: number): Buffer {
  const expected = `Expected ${PREFIX}<base64 of ${MIN_BYTES} to ${MAX_BYTES} bytes> as secret ${position}`
  if (entry === '') throw new Error(`${expected}, got nothing`)
  if (!entry.startsWith(PREFIX)) throw new Error(`${expected}, got another prefix`)
  const encoded = entry.slice(PREFIX.length)
  const key = Buffer.from(encoded, 'base64')
  // Buffer skips what is not base64, while receivers refuse it: only the canonical form is the same key to both.
  if (key.toString('base64') !== encoded) throw new Error(`${expected}, got text that is not padded base64`)
  if (key.length < MIN_BYTES || key.length > MAX_BYTES)
    throw new Error(`${expected}, got ${key.length} bytes`)
  return key
}
