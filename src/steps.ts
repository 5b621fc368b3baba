import { createHash } from 'node:crypto'

/** One step of a route: a BullMQ queue and how often a failed attempt is made again. */
export interface Step {
  readonly queue: string
  /** Attempts in all, the first included. */
  readonly attempts: number
  /** The wait before the second attempt; it doubles with each further one. */
  readonly backoffMs: number
  /** What a worker of ours calls for this step; null if the queue has workers of its own. */
  readonly service: Service | null
}

/** An existing synchronous service that is a step: it is sent the step's input, and what it answers is the result. */
export interface Service {
  readonly url: string
  /** How long a call may take, from the connection to the last byte of the answer. */
  readonly timeoutMs: number
  /** Calls that one process may have under way. */
  readonly concurrency: number
}

export type StepSource =
  | string
  | {
      readonly queue?: string
      readonly http?: { readonly url: string; readonly timeout_ms?: number; readonly concurrency?: number }
      readonly attempts?: number
      readonly backoff_ms?: number
    }

export const attempts = { type: 'integer', minimum: 1, maximum: 1_000 }
export const backoff = { type: 'integer', minimum: 0, maximum: 86_400_000 }
const MAX_QUEUE_CHARACTERS = 100
/** BullMQ puts queue names between colons. */
const queue = { type: 'string', pattern: '^[^:\\s]+$', maxLength: MAX_QUEUE_CHARACTERS }
const http = {
  type: 'object',
  required: ['url'],
  additionalProperties: false,
  properties: {
    url: { type: 'string', maxLength: 2_048 },
    timeout_ms: { type: 'integer', minimum: 1, maximum: 3_600_000 },
    concurrency: { type: 'integer', minimum: 1, maximum: 1_000 },
  },
}

/** JSON Schema 2020-12 of {@link StepSource}. */
export const stepSchema = {
  if: { type: 'string' },
  // oxlint-disable-next-line unicorn/no-thenable -- a keyword of JSON Schema
  then: queue,
  else: {
    type: 'object',
    additionalProperties: false,
    properties: { queue, http, attempts, backoff_ms: backoff },
    if: { required: ['http'] },
    else: { required: ['queue'] },
  },
}

/** BullMQ's type of a backoff that our worker counts: exponential, but not before the service wants to be asked again. */
export const RETRY_AFTER = 'retry-after'

const TIMEOUT_MS = 30_000
const CONCURRENCY = 10

/**
 * @param source matches {@link stepSchema}
 * @param type what the type says for steps that do not say it themselves
 * @throws an Error that says what is wrong with the url of a service
 */
export function toStep(
  source: StepSource,
  type: { readonly attempts: number; readonly backoff_ms: number },
): Step {
  const own = typeof source === 'string' ? { queue: source } : source
  const service = own.http ? toService(own.http) : null
  return {
    queue: own.queue ?? queueOf(service?.url ?? ''),
    attempts: own.attempts ?? type.attempts,
    backoffMs: own.backoff_ms ?? type.backoff_ms,
    service,
  }
}

function toService(source: NonNullable<Exclude<StepSource, string>['http']>): Service {
  const url = URL.canParse(source.url) ? new URL(source.url) : null
  if (url?.protocol !== 'http:' && url?.protocol !== 'https:')
    throw new Error(`Expected an http or https URL, got ${JSON.stringify(source.url)}`)
  // It would be in logs and, in the queue's name, in what clients see.
  if (url.username !== '' || url.password !== '')
    throw new Error('Expected a URL without user name and password, got one with them')
  return {
    url: url.href,
    timeoutMs: source.timeout_ms ?? TIMEOUT_MS,
    concurrency: source.concurrency ?? CONCURRENCY,
  }
}

/**
 * The queue of a service that was given none: its host and path, such as `payment/payments`. It stays the same wherever
 * the step moves in its route, so that jobs under way are never sent to another service after a change.
 */
function queueOf(url: string): string {
  const { host, pathname } = new URL(url)
  const name = `${host}${pathname}`.replaceAll(':', '-').replace(/\/+$/, '')
  if (name.length <= MAX_QUEUE_CHARACTERS) return name
  const digest = createHash('sha256').update(url).digest('hex').slice(0, 8)
  return `${name.slice(0, MAX_QUEUE_CHARACTERS - digest.length - 1)}-${digest}`
}
