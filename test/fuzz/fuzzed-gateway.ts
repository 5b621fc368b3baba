import { match, strictEqual } from 'node:assert'
import { Worker, type Processor } from 'bullmq'
import * as fc from 'fast-check'
import type { Test } from 'tap'
import { createApiKey } from '../../src/access/api-key.ts'
import { scopes } from '../../src/access/identity.ts'
import { problems, type ProblemCode } from '../../src/errors.ts'
import { startGatewayProcess, type GatewayProcess } from '../e2e/processes.ts'
import { startRedis, type TestRedis } from '../helper.ts'
import { openKeys } from '../keys.ts'
import { INJECTED } from './corpus.ts'
import { headerOf, type RawAnswer } from './raw-http.ts'

/** Inputs of all fuzz tests together, and the share of each. */
const TOTAL = Number(process.env['FUZZ_RUNS'] ?? 100_000)
const shares = { requests: 0.72, bytes: 0.05, frames: 0.2, events: 0.03 }

export function inputsFor(part: keyof typeof shares): number {
  return Math.ceil(TOTAL * shares[part])
}

/**
 * Tries lists of `crowd` inputs, all of a list at a time, and at least `inputs` in all. FC_SEED repeats what was printed.
 *
 * @param attack throws when an input did what none may do; its message says which
 */
export async function fuzz<T>(
  input: fc.Arbitrary<T>,
  { inputs, crowd }: { readonly inputs: number; readonly crowd: number },
  attack: (inputs: readonly T[]) => Promise<void>,
): Promise<void> {
  const { FC_SEED } = process.env
  const property = fc.asyncProperty(fc.array(input, { minLength: crowd, maxLength: crowd }), attack)
  const { failed, seed, errorInstance } = await fc.check(property, {
    numRuns: Math.ceil(inputs / crowd),
    // What fails depends on what else was under way: smaller lists are other lists.
    endOnFailure: true,
    ...(FC_SEED !== undefined && { seed: Number(FC_SEED) }),
  })
  if (failed)
    throw new Error(`${(errorInstance as Error).message} (FC_SEED=${seed})`, { cause: errorInstance })
}

/** Every keyword whose work depends on what comes: patterns, formats, sets, trees. */
const judged = {
  type: 'object',
  additionalProperties: false,
  patternProperties: { '^x(a+)+$': true },
  properties: {
    word: { type: 'string', pattern: '^(a+)+$' },
    url: { type: 'string', format: 'url' },
    email: { type: 'string', format: 'email' },
    at: { type: 'string', format: 'date-time' },
    uri: { type: 'string', format: 'uri-reference' },
    set: { type: 'array', uniqueItems: true },
    tree: { $ref: '#/$defs/tree' },
    one: { oneOf: [{ type: 'string' }, { type: 'number', multipleOf: 0.01 }] },
  },
  $defs: { tree: { type: 'array', items: { $ref: '#/$defs/tree' } } },
}

export interface FuzzedGateway {
  readonly gateway: GatewayProcess
  readonly redis: TestRedis
  /** A credential that may do everything. */
  readonly authorization: string
  /** Runs a plain worker in the test's own process. */
  readonly work: (queue: string, processor: Processor) => Promise<Worker>
  /** Ends it, and asserts that nothing went wrong in it that its answers did not show. */
  readonly end: () => Promise<void>
}

/** A gateway process on its own Redis, that asks for keys and has little memory. */
export async function startFuzzedGateway(t: Test): Promise<FuzzedGateway> {
  // On a slow machine, or with more inputs than usual.
  t.setTimeout(3_600_000)
  const redis = await startRedis(t)
  const gateway = await startGatewayProcess(t, {
    redis,
    types: {
      echo: { steps: ['echo'], attempts: 1 },
      judged: { steps: ['judged'], attempts: 1, input: judged },
    },
    roles: 'http,collect',
    env: { QUARTET_AUTH: 'keys' },
    // What grows without bounds ends the process.
    nodeArgs: ['--max-old-space-size=384', '--import', './test/fuzz/watch-process.mjs'],
  })
  const keys = await openKeys(t, redis)
  const known = { scopes, types: null, name: null, createdAt: Date.now(), expiresAt: null }
  const { key } = await createApiKey(keys, { tenant: 'fuzz', ...known })

  return {
    gateway,
    redis,
    authorization: `Bearer ${key}`,

    async work(queue, processor) {
      const connection = redis.connect({ maxRetriesPerRequest: null })
      const worker = new Worker(queue, processor, { connection, concurrency: 100 })
      worker.on('error', () => undefined)
      t.teardown(() => worker.close(true))
      await worker.waitUntilReady()
      return worker
    },

    async end() {
      gateway.child.kill('SIGTERM')
      t.same(await gateway.exited, { code: 0, signal: null }, 'the gateway lives to the end')
      t.ok(gateway.lines.includes('prototypes: as they were'), 'and what all objects inherit is as it was')
      const failures = gateway.lines.filter((line) =>
        /"level":[56]0|uncaughtException|unhandledRejection/.test(line),
      )
      t.strictSame(failures, [], 'and its log has no failure')
    },
  }
}

/** All that an answer may have, whatever was asked: of HTTP, of the contract, and for browsers. */
const known = new Set([
  'connection',
  'content-length',
  'content-type',
  'date',
  'keep-alive',
  'transfer-encoding',
  'upgrade',
  'vary',
  'allow',
  'cache-control',
  'etag',
  'idempotent-replayed',
  'last-modified',
  'location',
  'preference-applied',
  'retry-after',
  'www-authenticate',
  'x-accel-buffering',
  'x-correlation-id',
  'x-request-id',
  'content-security-policy',
  'cross-origin-resource-policy',
  'referrer-policy',
  'x-content-type-options',
  'x-frame-options',
  'accept-ranges',
  'sec-websocket-accept',
  'sec-websocket-protocol',
])

/** Holds an answer against what none may be. Throws. */
export function judge(answer: RawAnswer): void {
  const { status, headers, body } = answer
  if (status >= 500 && status !== 503) throw new Error(`Expected no ${status}`)
  const names = headers.map(([name]) => name)
  const strange = names.filter((name) => !known.has(name))
  if (strange.length > 0) throw new Error(`Expected no header ${strange.join(', ')}`)
  if (new Set(names).size < names.length)
    throw new Error(`Expected each header once, got ${names.join(', ')}`)
  if (headers.some(([, value]) => value.includes(`${INJECTED}:`)))
    throw new Error('Expected no header in a header')
  const id = headerOf(answer, 'x-request-id')
  if (id !== undefined && !/^[\w.:-]{1,128}$/.test(id)) throw new Error(`Expected a request id, got ${id}`)
  if (status < 400) return
  match(headerOf(answer, 'content-type') ?? 'none', /^application\/problem\+json(; charset=utf-8)?$/)
  if (body === '') return
  const { code, status: told } = JSON.parse(body) as { code: ProblemCode; status: number }
  if (!Object.hasOwn(problems, code)) throw new Error(`Expected a known code, got ${code}`)
  strictEqual(problems[code].status, status)
  strictEqual(told, status)
}
