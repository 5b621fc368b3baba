import type { IncomingHttpHeaders } from 'node:http'
import CircuitBreaker from 'opossum'
import type { FastifyBaseLogger } from 'fastify'
import { Agent, request } from 'undici'
import { Problem } from '../errors.ts'
import { digestOf } from './api-key.ts'
import { AnswerError, readAnswer, type Verdict } from './authorizer-answer.ts'
import type { Identity } from './identity.ts'
import { createMemory } from './memory.ts'

const ANSWER_MS = 2_000
const ANSWER_BYTES = 65_536
/** Questions under way; further ones are answered with 503. */
const CAPACITY = 256
/** How long nobody is asked once half of ten seconds' questions, and five at least, had no answer. */
const OPEN_MS = 5_000
/** Lists of what an answer depends on that are told apart. An authorizer has one, or a few. */
const MAX_VARIANTS = 8

/** What the authorizer is asked about. */
export interface Question {
  readonly method: string
  /** As the router understood it, without the query. */
  readonly path: string
  readonly headers: IncomingHttpHeaders
}

/** The user's own service that says who somebody is. */
export interface Authorizer {
  /** @throws Problem `unauthorized`, `forbidden`, `authentication_unavailable` */
  ask(question: Question): Identity | Promise<Identity>
  /** Whether it is left in peace, as it does not answer. */
  isOpen(): boolean
  close(): Promise<void>
}

/**
 * What concerns the connection or the body, asks for another kind of answer, or is the gateway's own to say. Also with an
 * underscore: some servers take it for a hyphen.
 */
const notPassedOn =
  /^(connection|keep-alive|proxy-.*|te|trailer|transfer-encoding|upgrade|http2-settings|sec-websocket-.*|content-.*|expect|host|accept|accept-encoding|range|if-.*|x-forwarded-(method|uri))$/

/**
 * Asks `url` with a GET that has the request's headers, and its method and path as `X-Forwarded-Method` and
 * `X-Forwarded-Uri`. What it says holds for as long as its `Cache-Control: max-age` says, for requests that are the same in
 * all that it was told; or in what it names as `vary_by`. Where it cannot be asked nobody is let in.
 */
export function createAuthorizer(
  { url, log }: { readonly url: string; readonly log: FastifyBaseLogger },
  clock = () => performance.now(),
): Authorizer {
  const dispatcher = new Agent({ connections: CAPACITY, maxResponseSize: ANSWER_BYTES })
  const breaker = new CircuitBreaker(inquire, {
    timeout: false,
    capacity: CAPACITY,
    volumeThreshold: 5,
    errorThresholdPercentage: 50,
    resetTimeout: OPEN_MS,
    rollingPercentilesEnabled: false,
    enableSnapshots: false,
    // What somebody may bring about by what he sends must not shut out the others.
    errorFilter: (error: Error) => error instanceof AnswerError && error.isForThisRequest,
  })
  breaker.on('open', () => log.warn('the authorizer does not answer, and is left in peace'))
  breaker.on('close', () => log.info('the authorizer answers again'))
  const verdicts = createMemory<Verdict>(clock)
  /** By its names in one text; the first is for answers that may depend on anything. */
  const variants = new Map<string, readonly string[] | null>([['', null]])

  return {
    ask(question) {
      const told = tellOf(question)
      for (const varyBy of variants.values()) {
        const known = verdicts.get(keyOf(told, varyBy))
        if (known) return settle(known)
      }
      return breaker.fire(told).then((verdict) => {
        remember(told, verdict)
        return settle(verdict)
      }, refuse)
    },

    isOpen: () => !breaker.closed,

    async close() {
      breaker.shutdown()
      await dispatcher.destroy()
    },
  }

  async function inquire(told: Record<string, string>): Promise<Verdict> {
    const { statusCode, headers, body } = await request(url, {
      headers: { ...told, accept: 'application/json' },
      dispatcher,
      signal: AbortSignal.timeout(ANSWER_MS),
    })
    return readAnswer(statusCode, headers, await body.text())
  }

  function remember(told: Record<string, string>, verdict: Verdict): void {
    const { varyBy, forMs } = verdict
    const name = varyBy?.join(' ') ?? ''
    if (forMs === 0 || (!variants.has(name) && variants.size >= MAX_VARIANTS)) return
    variants.set(name, varyBy)
    verdicts.set(keyOf(told, varyBy), verdict, forMs)
  }

  function refuse(cause: Error): never {
    log.debug({ err: cause }, 'the authorizer could not be asked')
    const retryAfterS = breaker.opened ? OPEN_MS / 1_000 : 1
    throw new Problem('authentication_unavailable', 'The authorizer cannot be asked now', {
      retryAfterS,
      cause,
    })
  }
}

/** What the authorizer is told of a request, and all that it can judge by. */
function tellOf({ method, path, headers }: Question): Record<string, string> {
  const named = (headers.connection ?? '')
    .toLowerCase()
    .split(',')
    .map((name) => name.trim())
  const passedOn = Object.entries(headers).filter(
    ([name]) => !notPassedOn.test(name.replaceAll('_', '-')) && !named.includes(name),
  )
  const told = Object.fromEntries(passedOn.map(([name, value]) => [name, String(value)]))
  return { ...told, 'x-forwarded-method': method, 'x-forwarded-uri': path }
}

/** The same for all requests that are the same in what counts. */
function keyOf(told: Readonly<Record<string, string>>, varyBy: readonly string[] | null): string {
  const names = varyBy?.map((name) => ownNames.get(name) ?? name) ?? Object.keys(told).toSorted()
  const parts = names.map((name) => [name, told[name] ?? null])
  return digestOf(JSON.stringify(parts)).toString('base64url')
}

const ownNames: ReadonlyMap<string, string> = new Map([
  ['method', 'x-forwarded-method'],
  ['path', 'x-forwarded-uri'],
])

function settle({ outcome }: Verdict): Identity {
  if (outcome instanceof Problem) throw outcome
  return outcome
}
