import type { RouteOptions } from 'fastify'
import type { Needs } from '../access/authenticate.ts'
import { deliveryOperations } from './delivery-operations.ts'
import { gatewayOperations } from './gateway-operations.ts'
import { headers, type HeaderName } from './headers.ts'
import { eventOperations } from './event-operations.ts'
import { jobOperations } from './job-operations.ts'
import { pathParameters } from './parameters.ts'
import type { Answer, Content, Operation } from './operation.ts'
import { problemsOf } from './problem-responses.ts'

/** What is said of each route, by its method and path as they are registered. */
const operations: Readonly<Record<string, Operation>> = {
  ...jobOperations,
  ...eventOperations,
  ...deliveryOperations,
  ...gatewayOperations,
}

const named = new Set(Object.values(operations).flatMap(({ problems = [] }) => problems))

/** What the answers of a route may have whose requests are counted. */
const ofCounted: readonly HeaderName[] = ['RateLimit', 'RateLimit-Policy']

/** What a route without `needs` asks for. */
const admin: Needs = { scopes: ['admin'], orJobToken: false }

/**
 * Says what a route does, as @fastify/swagger takes it. That one adds the path; of the bodies it would rewrite what it
 * knows of JSON Schema, so they are in `x-rest`, which it leaves alone and the document unfolds.
 *
 * @param isOpen whether everybody is let in
 */
export function describeRoute(
  { method, url, config }: Pick<RouteOptions, 'method' | 'url' | 'config'>,
  isOpen: boolean,
): object {
  if (method === 'OPTIONS') return { hide: true }
  const needs = config?.needs ?? admin
  const operation = operations[`${String(method)} ${url}`]
  const asked = { url, needs, isOpen, hasBody: operation?.body !== undefined }
  const counted = needs === 'open' ? [] : ofCounted
  const answers = Object.entries(operation?.answers ?? {}).map(([status, answer]) => {
    const mayHave = [...(answer.mayHave ?? []), ...counted]
    return [status, toResponse(Number(status), { ...answer, mayHave })]
  })
  return {
    ...(operation && {
      operationId: operation.id,
      tags: [operation.tag],
      summary: operation.summary,
      description: operation.description,
      querystring: toParameters(operation.query, operation.required),
      headers: toParameters(operation.headers),
    }),
    params: {
      type: 'object',
      properties: Object.fromEntries(
        Object.entries(pathParameters).filter(([name]) => url.split('/').includes(`:${name}`)),
      ),
    },
    security: securityOf(needs, isOpen),
    'x-rest': {
      ...(operation?.body && {
        requestBody: {
          required: operation.body.isRequired,
          content: { 'application/json': toMedia(operation.body) },
        },
      }),
      responses: {
        ...Object.fromEntries(answers),
        ...problemsOf(asked, operation?.problems ?? [], named),
      },
    },
  }
}

function securityOf(needs: Needs | 'open', isOpen: boolean): readonly object[] {
  if (needs === 'open') return []
  const { scopes, orJobToken } = needs
  return [
    ...(isOpen ? [{}] : []),
    { key: scopes },
    ...(orJobToken ? [{ jobToken: [] }, { jobTokenInUrl: [] }] : []),
  ]
}

function toParameters(properties: Operation['query'] = {}, required: Operation['required'] = []): object {
  return { type: 'object', required, properties }
}

function toResponse(
  status: number,
  { description, headers: always = [], mayHave = [], content }: Answer,
): object {
  const names: readonly HeaderName[] = status === 101 ? always : ['X-Request-Id', ...always]
  return {
    description,
    headers: {
      ...Object.fromEntries(names.map((name) => [name, { ...headers[name], required: true }])),
      ...Object.fromEntries(mayHave.map((name) => [name, headers[name]])),
    },
    ...(content && {
      content: Object.fromEntries(Object.entries(content).map(([type, each]) => [type, toMedia(each)])),
    }),
  }
}

function toMedia({ schema, examples = {}, itemSchema }: Content): object {
  return {
    schema,
    // OpenAPI 3.2 has it as `itemSchema`.
    ...(itemSchema !== undefined && { 'x-itemSchema': itemSchema }),
    examples: Object.fromEntries(Object.entries(examples).map(([name, value]) => [name, { value }])),
  }
}
