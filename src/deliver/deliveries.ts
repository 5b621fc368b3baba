import type { FastifyInstance } from 'fastify'
import { needs } from '../access/authenticate.ts'
import { createAjv, toViolations } from '../catalog.ts'
import { invalid, Problem } from '../errors.ts'
import { ignoreBody } from '../ignore-body.ts'
import { isCorrelationId, redeliverRequestSchema, type RedeliverRequest } from '../messages.ts'
import type {
  DeadFilter,
  DeadLetter,
  DeliveryRecord,
  JobDeliveries,
  Redelivery,
  Try,
} from '../store/deliveries.ts'
import type { Store } from '../store/store.ts'
import { readLimit } from './negotiate.ts'

/** Dead letters that are looked through, and put back, at a time. */
const PAGE = 200
export const DEAD_LIMIT = { usual: 50, most: PAGE } as const
/** RFC 3339: Date.parse alone takes almost anything. */
const dateTime = /^\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)$/i

type JobParams = { Params: { id: string; seq: string } }

/** What became of webhooks, and having them delivered once more (docs/PROTOCOL.md "Deliveries"). */
export function registerDeliveries(app: FastifyInstance, { store }: { readonly store: Store }): void {
  const validate = createAjv().compile<RedeliverRequest>(redeliverRequestSchema)

  app.get<JobParams>('/jobs/:id/deliveries', needs('jobs:read'), async (request, reply) => {
    const { id } = request.params
    const { tenant } = request.identity
    const found = isCorrelationId(id) ? await store.deliveries.record(tenant, id) : null
    if (!found) throw new Problem('not_found', `No job ${id}`)
    return reply.send(showJob(id, found))
  })

  type Query = { Querystring: Record<string, string | undefined> }
  app.get<Query>('/deliveries', needs('jobs:read'), async (request, reply) => {
    const { status, origin, since, limit, page_token: token } = request.query
    if (status !== 'dead') {
      throw new Problem(
        'malformed_request',
        `Expected status to be dead, got ${JSON.stringify(status ?? null)}`,
      )
    }
    if (token !== undefined && !/^\d{1,15}\.\d{1,9}$/.test(token)) {
      throw new Problem(
        'malformed_request',
        'Expected page_token to be the next_page_token of an earlier page',
      )
    }
    const page = { limit: readLimit(limit, DEAD_LIMIT), after: token ?? null }
    const { tenant } = request.identity
    const { letters, next } = await store.deliveries.dead(tenant, filterOf(origin, since), page)
    return reply.send({ deliveries: letters.map(showDead), next_page_token: next })
  })

  app.post('/deliveries/redeliver', needs('jobs:write'), async (request, reply) => {
    if (!validate(request.body)) throw invalid(toViolations(validate.errors ?? []))
    const { origin, since } = request.body
    const count = await redeliverAll(store, request.identity.tenant, filterOf(origin, since))
    return reply.code(202).send({ redelivered: count })
  })

  app.register(async (scope) => {
    ignoreBody(scope)
    scope.post<JobParams>(
      '/jobs/:id/deliveries/:seq/redeliver',
      needs('jobs:write'),
      async (request, reply) => {
        const { id, seq } = request.params
        if (!isCorrelationId(id)) throw new Problem('not_found', `No job ${id}`)
        if (!/^[1-9]\d{0,8}$/.test(seq)) throw noSuchDelivery(id, seq)
        const outcome = await store.deliveries.redeliver(request.identity.tenant, id, Number(seq))
        return reply.code(202).send({ webhook_id: `${id}.${seq}`, status: expectTaken(outcome, id, seq) })
      },
    )
  })
}

/** Every dead letter that matches gets another try. @returns how many */
async function redeliverAll(store: Store, tenant: string, filter: DeadFilter): Promise<number> {
  // All are found before the first is put back: one that dies again meanwhile is not taken for another.
  const letters: DeadLetter[] = []
  let count = 0
  let after: string | null = null
  do {
    const page = await store.deliveries.dead(tenant, filter, { limit: PAGE, after })
    letters.push(...page.letters)
    after = page.next
  } while (after !== null)
  for (let at = 0; at < letters.length; at += PAGE) {
    const page = letters.slice(at, at + PAGE)
    const outcomes = await Promise.all(page.map(({ id, seq }) => store.deliveries.redeliver(tenant, id, seq)))
    count += outcomes.filter((outcome) => outcome === 'scheduled' || outcome === 'under_way').length
  }
  return count
}

function filterOf(origin: string | undefined, since: string | undefined): DeadFilter {
  if (origin !== undefined && !(URL.canParse(origin) && new URL(origin).origin === origin)) {
    throw new Problem(
      'malformed_request',
      'Expected origin to be scheme, host and port, e.g. https://example.com',
    )
  }
  const ms = since === undefined ? undefined : dateTime.test(since) ? Date.parse(since) : NaN
  if (Number.isNaN(ms)) {
    throw new Problem('malformed_request', 'Expected since to be a time, e.g. 2026-01-31T12:00:00Z')
  }
  return { ...(origin !== undefined && { origin }), ...(ms !== undefined && { since: ms }) }
}

function expectTaken(outcome: Redelivery, id: string, seq: string): 'scheduled' | 'under_way' {
  if (outcome === 'not_found') throw new Problem('not_found', `No job ${id}`)
  if (outcome === 'no_callback') throw new Problem('no_callback')
  if (outcome === 'unknown') throw noSuchDelivery(id, seq)
  return outcome
}

function noSuchDelivery(id: string, seq: string): Problem {
  return new Problem('no_such_delivery', `No event ${seq} of job ${id} was delivered or given up`)
}

function showJob(id: string, { origin, isGone, openUntil, deliveries }: JobDeliveries): object {
  return {
    origin,
    gone: isGone,
    circuit: openUntil === null ? 'closed' : 'open',
    circuit_open_until: timeOf(openUntil),
    deliveries: deliveries.map((delivery) => showDelivery(id, delivery)),
  }
}

function showDelivery(id: string, { seq, type, status, nextTryAt, tries }: DeliveryRecord): object {
  return {
    seq,
    webhook_id: `${id}.${seq}`,
    type,
    status,
    next_try_at: timeOf(nextTryAt),
    tries: tries.map(showTry),
  }
}

function showTry({ at, durationMs, outcome, statusCode, reason, error, isRedelivery }: Try): object {
  return {
    at: timeOf(at),
    duration_ms: durationMs,
    outcome,
    status_code: statusCode,
    reason,
    error,
    redelivery: isRedelivery,
  }
}

function showDead({ id, seq, origin, diedAt }: DeadLetter): object {
  return { job_id: id, seq, webhook_id: `${id}.${seq}`, status: 'dead', origin, died_at: timeOf(diedAt) }
}

function timeOf(ms: number | null): string | null {
  return ms === null ? null : new Date(ms).toISOString()
}
