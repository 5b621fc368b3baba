import type { JobType } from '../catalog.ts'
import { requestExamples, requestSchemas } from './job-types.ts'
import { problemResponse } from './problem-responses.ts'
import { schemas } from './schemas.ts'
import { webhooks } from './webhook.ts'

export { describeRoute } from './describe-route.ts'

interface Operation {
  readonly requestBody?: { readonly content: Readonly<Record<string, object>> }
  readonly responses: Readonly<Record<string, { readonly $ref?: string }>>
}
type Paths<Each> = Readonly<Record<string, Readonly<Record<string, Each>>>>

/** What @fastify/swagger makes of the routes. */
export interface Skeleton {
  readonly openapi: string
  readonly components: object
  readonly paths: Paths<{ readonly 'x-rest': Operation }>
}

/** An OpenAPI document. */
export interface Document extends Omit<Skeleton, 'paths'> {
  readonly paths: Paths<Operation>
}

const about = {
  info: {
    title: 'Quartet',
    // That of the contract, as in the subprotocol of the WebSocket.
    version: '1',
    summary: 'POST a job, hear its result four ways.',
    description:
      'Submit a job, and hear of it by polling, as server-sent events or NDJSON, on a WebSocket, or by webhook: the same ' +
      'events in all of them, and one cursor, `seq`. Clients must ignore members and event types that they do not know. ' +
      'HEAD is answered wherever GET is, but for the events of a job. What is at no address of this document is **404** ' +
      '`no_such_route`.',
    license: { name: 'MIT', identifier: 'MIT' },
  },
  tags: [
    { name: 'jobs', description: 'Submitting, polling, cancelling.' },
    { name: 'events', description: 'Following.' },
    { name: 'webhooks', description: 'Events at a return address, and what became of them.' },
    { name: 'gateway', description: 'The gateway itself.' },
  ],
}

/** Completes the document, but for the job types. */
export function complete({ openapi, components, paths: folded }: Skeleton): Document {
  const paths = Object.fromEntries(
    Object.entries(folded).map(([path, item]) => {
      const unfolded = Object.entries(item).map(([method, { 'x-rest': rest, ...operation }]) => [
        method,
        { ...operation, ...rest },
      ])
      return [path, Object.fromEntries(unfolded) as Readonly<Record<string, Operation>>]
    }),
  )
  const document = {
    openapi,
    ...about,
    paths,
    webhooks,
    components: { ...components, responses: problemResponses(paths) },
  }
  return document
}

function problemResponses(paths: Paths<Operation>): Readonly<Record<string, object>> {
  const responses = Object.values(paths).flatMap((item) =>
    Object.values(item).flatMap((operation) => Object.values(operation.responses)),
  )
  const names = responses.flatMap(({ $ref }) => $ref?.split('/').at(-1) ?? [])
  return Object.fromEntries(names.map((name) => [name, problemResponse(name)]))
}

/** @param types those that are shown; null for none, so that the document is that of any gateway */
export function withTypes(
  { paths, components, ...document }: Document,
  types: readonly JobType[] | null,
): object {
  const examples = requestExamples(types)
  const jobs = Object.values(examples)
  return {
    ...document,
    paths: {
      ...paths,
      ...withExamples(paths, '/jobs', examples),
      ...withExamples(paths, '/jobs/batch', jobs.length > 0 ? { all: { jobs } } : {}),
    },
    components: { ...components, schemas: { ...schemas, ...requestSchemas(types) } },
  }
}

/** The path, with examples of what is posted there. */
function withExamples(
  paths: Document['paths'],
  path: string,
  examples: Readonly<Record<string, object>>,
): Document['paths'] {
  const item = paths[path]
  const { post } = item ?? {}
  if (!post) return {}
  const media = {
    ...post.requestBody?.content['application/json'],
    examples: Object.fromEntries(Object.entries(examples).map(([name, value]) => [name, { value }])),
  }
  const requestBody = { ...post.requestBody, content: { 'application/json': media } }
  return { [path]: { ...item, post: { ...post, requestBody } } }
}
