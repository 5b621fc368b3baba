import swagger from '@fastify/swagger'
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import type { Access } from '../access/access.ts'
import { open } from '../access/authenticate.ts'
import type { Catalog, JobType } from '../catalog.ts'
import { varyBy } from '../deliver/negotiate.ts'
import type * as OpenApi from './openapi.ts'
import { registerPage } from './page.ts'
import { securitySchemes } from './security.ts'

/** Documents of different sets of types that are kept. */
const MOST_TEXTS = 16

export interface DescribeParts extends Pick<Access, 'identify'> {
  readonly catalog: Catalog
  /** Whether everybody is let in. */
  readonly isOpen: boolean
}

/**
 * GET /openapi.json, /asyncapi.json and /docs: the API describes itself. To be registered before the routes that it is
 * to describe. What the documents are made of is loaded when one is first asked for: the start pays nothing for it.
 */
export async function registerDescribe(
  app: FastifyInstance,
  { identify, catalog, isOpen }: DescribeParts,
): Promise<void> {
  let openapi: typeof OpenApi
  await app.register(swagger, {
    openapi: { openapi: '3.1.1', components: { securitySchemes } },
    convertConstToEnum: false,
    transform: ({ route, url }) => ({ url, schema: openapi.describeRoute(route, isOpen) }),
    transformObject: (given) =>
      openapi.complete((given as { openapiObject: object }).openapiObject as OpenApi.Skeleton),
  })

  /** Those asked for last, by the types in them: a document is large, and costs milliseconds. */
  const texts = new Map<string, string>()
  const write = async (types: readonly JobType[] | null): Promise<string> => {
    const key = JSON.stringify(types?.map(({ name }) => name) ?? null)
    const known = texts.get(key)
    if (known !== undefined) return known
    openapi ??= await import('./openapi.ts')
    const text = JSON.stringify(openapi.withTypes(app.swagger() as unknown as OpenApi.Document, types))
    texts.set(key, text)
    const [oldest] = texts.keys()
    if (texts.size > MOST_TEXTS && oldest !== undefined) texts.delete(oldest)
    return text
  }
  let asyncApiText: string | null = null

  app.get('/openapi.json', open, async (request, reply) => {
    const types = await typesFor(request)
    varyBy(reply, 'authorization')
    return sendDocument(reply, await write(types))
  })

  app.get('/asyncapi.json', open, async (_request, reply) => {
    const { asyncApi } = await import('./asyncapi.ts')
    return sendDocument(reply, (asyncApiText ??= JSON.stringify(asyncApi())))
  })

  registerPage(app)

  /** What the operator's job types are called is for those who may submit them. Null: nobody in particular asks. */
  async function typesFor({ method, headers, ip }: FastifyRequest): Promise<JobType[] | null> {
    if (!isOpen && headers.authorization === undefined) return null
    const { scopes, types } = await identify({
      method,
      route: '/openapi.json',
      params: {},
      headers,
      address: ip,
    })
    if (!scopes.has('jobs:write')) return null
    return [...catalog.types.values()].filter(({ name }) => types === null || types.has(name))
  }
}

function sendDocument(reply: FastifyReply, text: string): FastifyReply {
  return reply.header('cache-control', 'private, no-cache').type('application/json; charset=utf-8').send(text)
}
