import { spawn, spawnSync } from 'node:child_process'
import { createInterface } from 'node:readline'
import type { Test } from 'tap'
import { createVerifier, WebhookError } from '../clients/typescript/verify.ts'
import {
  generatePrivateKey,
  generateSecret,
  parseSigningKeys,
  publicKeyOf,
  sign,
} from '../src/deliver/signature.ts'

/** What a receiver has at hand when a webhook comes. */
export interface Attempt {
  readonly keys: string
  /** Name and value, in the order they came. */
  readonly headers: readonly (readonly [string, string])[]
  readonly body: Uint8Array
  /** Seconds since the epoch. */
  readonly now: number
}

/** The id of a genuine webhook, or what was said against it, or against the keys. */
export type Verdict = { id: string } | { reason: string; message: string } | { fault: string }

export type Verifier = (attempt: Attempt) => Promise<Verdict>

const verifyInTypeScript: Verifier = async ({ keys, headers, body, now }) => {
  try {
    const verify = createVerifier(keys, { now: () => now * 1_000 })
    return { id: verify(headers, body) }
  } catch (error) {
    if (error instanceof WebhookError) return { reason: error.reason, message: error.message }
    return { fault: (error as Error).message }
  }
}

/** Answers a line of JSON with a line of JSON, as verifyInTypeScript does; what is no verdict ends it. */
const driver = `
import base64, json, sys
sys.path.insert(0, "clients/python")
if "--without-cryptography" in sys.argv:
    sys.modules["cryptography"] = None
from verify import WebhookError, create_verifier

class Headers(list):
    def items(self):
        return self

for line in sys.stdin:
    attempt = json.loads(line)
    try:
        verify = create_verifier(attempt["keys"], now=lambda: attempt["now"])
    except ValueError as error:
        print(json.dumps({"fault": str(error)}), flush=True)
        continue
    try:
        verdict = {"id": verify(Headers(attempt["headers"]), base64.b64decode(attempt["body"]))}
    except WebhookError as error:
        verdict = {"reason": error.reason, "message": str(error)}
    print(json.dumps(verdict), flush=True)
`

/** Whether python3 has the package that clients/python/verify.py needs for public keys. */
const hasCryptography = spawnSync('python3', ['-c', 'import cryptography']).status === 0

/** Starts a python3 that verifies, one attempt at a time. It ends with the test. */
export function startPython(t: Pick<Test, 'teardown'>, options: readonly string[] = []): Verifier {
  const child = spawn('python3', ['-c', driver, ...options], { stdio: ['pipe', 'pipe', 'inherit'] })
  const lines = createInterface(child.stdout)[Symbol.asyncIterator]()
  t.teardown(() => child.stdin.end())
  return async ({ body, ...rest }) => {
    child.stdin.write(`${JSON.stringify({ ...rest, body: Buffer.from(body).toString('base64') })}\n`)
    const { done, value } = await lines.next()
    if (done) throw new Error('Expected a verdict, got the end of the process')
    return JSON.parse(value) as Verdict
  }
}

export const now = 1_800_000_000
export const id = '0199a1b2-0000-7000-8000-000000000000.7'
export const body = '{"seq":7,"type":"job.completed","data":{"text":"grüße ✓"}}'
export const secret = generateSecret()
export const privateKey = generatePrivateKey()

/** What the gateway signs with, and what its receiver verifies with. */
export const pairs = {
  v1: { signing: secret, verifying: secret },
  v1a: { signing: privateKey, verifying: publicKeyOf(privateKey) },
}
export type Kind = keyof typeof pairs

/** Parts of a webhook as they came. */
export interface Parts {
  keys: string
  id: string
  timestamp: string
  signature: string
  body: string | Uint8Array
  now: number
}

/** What comes when the gateway has signed the event at a time, in seconds since the epoch. */
export function genuine(kind: Kind, at = now): Parts {
  const { signing, verifying } = pairs[kind]
  const signature = sign(parseSigningKeys(signing).of('default'), { id, timestamp: at, body })
  return { keys: verifying, id, timestamp: String(at), signature, body, now }
}

export function attemptOf({ keys, id, timestamp, signature, body, now }: Parts): Attempt {
  const headers = [
    ['webhook-id', id],
    ['webhook-timestamp', timestamp],
    ['webhook-signature', signature],
  ] as const
  return { keys, headers, body: Buffer.from(body), now }
}

/** A verifier, with the kinds of signature that it can check here. */
interface Candidate {
  readonly language: string
  readonly verify: Verifier
  readonly kinds: readonly Kind[]
}

export function startVerifiers(t: Pick<Test, 'teardown'>): Candidate[] {
  return [
    { language: 'TypeScript', verify: verifyInTypeScript, kinds: ['v1', 'v1a'] },
    { language: 'Python', verify: startPython(t), kinds: hasCryptography ? ['v1', 'v1a'] : ['v1'] },
  ]
}

/** Expects what is changed in a genuine webhook of each kind to be refused for a reason. */
export async function refuses(
  t: Test,
  { verify, kinds }: Candidate,
  reason: string,
  change: (parts: Parts) => Partial<Parts>,
): Promise<void> {
  for (const kind of kinds) {
    const parts = genuine(kind)
    const changes = change(parts)
    t.match(await verify(attemptOf({ ...parts, ...changes })), { reason }, JSON.stringify(changes))
  }
}
