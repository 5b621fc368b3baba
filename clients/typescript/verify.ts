/**
 * Verifies webhooks of Quartet, and of whoever else follows Standard Webhooks (https://www.standardwebhooks.com). To be
 * copied into a receiver: one file, nothing to install, Node.js 20 or later.
 *
 *     const verify = createVerifier('whsec_…')
 *     const id = verify(request.headers, body) // throws unless the gateway has signed exactly this, just now
 */
import { createHmac, createPublicKey, timingSafeEqual, verify as verifyEd25519 } from 'node:crypto'

/** Why a webhook was refused. */
export type Refusal = 'missing_header' | 'malformed_header' | 'too_old' | 'too_new' | 'no_match'

/** This webhook is not to be trusted: answer with 401, and do nothing else. */
export class WebhookError extends Error {
  override readonly name = 'WebhookError'
  readonly reason: Refusal

  constructor(reason: Refusal, message: string) {
    super(message)
    this.reason = reason
  }
}

/** Node's `request.headers`, or the `Headers` of a `Request`. The case of names does not matter. */
export type WebhookHeaders =
  | Iterable<readonly [string, string]>
  | Readonly<Record<string, string | readonly string[] | undefined>>

/** @returns the `webhook-id`, which is the same when the same webhook comes again */
export type Verify = (headers: WebhookHeaders, body: Uint8Array | string) => string

/** Whether one of the signatures of a header is this key's. */
type Matches = (content: Buffer, signatures: readonly string[]) => boolean

/** A header with more is no honest one: each would be tried on the whole body. */
const MAX_SIGNATURES = 16
/** What stands before an Ed25519 public key in its DER (RFC 8410 section 4). */
const SPKI_HEAD = Buffer.from('302a300506032b6570032100', 'hex')

/**
 * @param keys `whsec_<base64>` (the shared secret) or `whpk_<base64>` (the gateway's public key); several while one is
 *   rotated, separated by commas: one that matches is enough
 * @param options.toleranceS how far the time of a webhook may be from now, in seconds: an old one may be a replay
 * @param options.now the time in ms since the epoch
 * @returns what verifies a webhook. The body is what came, to the byte, before anybody parses it
 * @throws an Error that names the position (from 1) of a key that is none, and never shows any of it
 */
export function createVerifier(
  keys: string,
  { toleranceS = 300, now = Date.now }: { toleranceS?: number; now?: () => number } = {},
): Verify {
  const matchers = keys.split(',').map((key, index) => readKey(key.trim(), index + 1))

  return (headers, body) => {
    if (typeof body !== 'string' && !(body instanceof Uint8Array)) {
      throw new TypeError('Expected the body as it came, bytes or text, got what somebody has parsed')
    }
    const id = readHeader(headers, 'webhook-id')
    const timestamp = readHeader(headers, 'webhook-timestamp')
    const signatures = readHeader(headers, 'webhook-signature').split(' ', MAX_SIGNATURES)
    // What is signed has full stops between its parts: an id must not reach into the next one.
    if (!/^[\w.-]+$/.test(id)) {
      throw new WebhookError('malformed_header', 'Expected a webhook-id of letters, digits, ".", "_" and "-"')
    }
    checkTime(timestamp)
    const content = Buffer.concat([Buffer.from(`${id}.${timestamp}.`), Buffer.from(body)])
    if (matchers.some((matches) => matches(content, signatures))) return id
    throw new WebhookError(
      'no_match',
      'Expected a signature by one of our keys over this very body, got none',
    )
  }

  function checkTime(timestamp: string): void {
    if (!/^\d{1,12}$/.test(timestamp)) {
      throw new WebhookError('malformed_header', 'Expected a webhook-timestamp in whole seconds')
    }
    const ageS = Math.floor(now() / 1_000) - Number(timestamp)
    if (ageS > toleranceS)
      throw new WebhookError('too_old', `Expected a webhook at most ${toleranceS} s old, got ${ageS} s`)
    if (ageS < -toleranceS) {
      throw new WebhookError('too_new', `Expected a webhook at most ${toleranceS} s ahead, got ${-ageS} s`)
    }
  }
}

function readHeader(headers: WebhookHeaders, name: string): string {
  const entries = Symbol.iterator in headers ? [...headers] : Object.entries(headers)
  const values = entries.filter(([key]) => key.toLowerCase() === name).flatMap(([, value]) => value ?? [])
  if (values.length > 1)
    throw new WebhookError('malformed_header', `Expected one ${name}, got ${values.length}`)
  if (!values[0]) throw new WebhookError('missing_header', `Expected a ${name} header, got none`)
  return values[0]
}

function readKey(key: string, position: number): Matches {
  const [, prefix = '', encoded = ''] = /^(whsec_|whpk_)(.+)$/.exec(key) ?? []
  const bytes = Buffer.from(encoded, 'base64')
  const isBase64 = bytes.length > 0 && bytes.toString('base64') === encoded
  if (prefix === 'whsec_' && isBase64) return matchSecret(bytes)
  if (prefix === 'whpk_' && isBase64 && bytes.length === 32) return matchPublicKey(bytes)
  throw new Error(
    `Expected whsec_<base64> or whpk_<base64 of 32 bytes> as key ${position}, got something else`,
  )
}

function matchSecret(secret: Buffer): Matches {
  return (content, signatures) => {
    const expected = Buffer.from(`v1,${createHmac('sha256', secret).update(content).digest('base64')}`)
    const given = signatures.map((signature) => Buffer.from(signature))
    // In constant time, lest somebody guess a signature byte by byte.
    return given.some((each) => each.length === expected.length && timingSafeEqual(each, expected))
  }
}

function matchPublicKey(bytes: Buffer): Matches {
  const key = createPublicKey({ key: Buffer.concat([SPKI_HEAD, bytes]), format: 'der', type: 'spki' })
  return (content, signatures) =>
    signatures.some((text) => {
      const signature = Buffer.from(text.slice('v1a,'.length), 'base64')
      // Base64 of the same bytes can be written in several ways; the gateway writes it in one.
      const isWhole = signature.length === 64 && text === `v1a,${signature.toString('base64')}`
      return isWhole && verifyEd25519(null, content, key, signature)
    })
}
