import { subscribe } from 'node:diagnostics_channel'
import { readFileSync } from 'node:fs'
import { Validator } from '@seriousme/openapi-schema-validator'
import { Ajv2020 } from 'ajv/dist/2020.js'
import addFormats from 'ajv-formats'
import { parseCatalog } from '../src/catalog.ts'
import { requestSchemas } from '../src/describe/job-types.ts'
import type { FastifyInstance, RouteOptions } from 'fastify'
import t from 'tap'
import { problems, type ProblemCode } from '../src/errors.ts'
import { createJudge, examplesIn, partsOf, type Part } from './document.ts'
import { startGateway } from './gateway.ts'
import { startKeyedGateway } from './keys.ts'
import { get, isProblem } from './conformance/clients.ts'

interface Described extends Part {
  readonly operationId?: string
  readonly summary?: string
  readonly responses: Readonly<Record<string, Part>>
}
interface OpenApi extends Part {
  readonly paths: Readonly<Record<string, Readonly<Record<string, Described>>>>
  readonly components: {
    readonly schemas: Readonly<Record<string, Part>>
    readonly responses: Readonly<Record<string, Part>>
  }
}

/** Every route that the app has, as it registered them. */
const routes: RouteOptions[] = []
subscribe('fastify.initialization', (message) => {
  const { fastify } = message as { readonly fastify: FastifyInstance }
  fastify.addHook('onRoute', (route) => void routes.push(route))
})

const { types } = JSON.parse(readFileSync('quartet.config.json', 'utf8')) as { types: Record<string, object> }
/** A schema that refers to itself, by its place and by its name. */
const tree = {
  steps: ['tree'],
  input: {
    $id: 'https://example.com/tree',
    type: 'object',
    properties: { of: { $ref: '#' }, leaf: { $ref: 'https://example.com/tree#/$defs/leaf' } },
    $defs: { leaf: { type: 'string' } },
    examples: [{ of: { leaf: 'oak' } }],
  },
}
/** Of another one with the same name. */
const twin = { steps: ['twin'], input: { $id: 'https://example.com/tree', type: 'integer' } }
const gateway = await startKeyedGateway(t, { ...types, tree, twin })
const documentFor = async (given: Parameters<typeof gateway.as>[0]) =>
  (await (await get(await gateway.as(given), '/openapi.json')).json()) as OpenApi
const openapi = await documentFor({})
const stranger = (await (await fetch(`${gateway.url}/openapi.json`)).json()) as OpenApi
const operations = Object.values(openapi.paths).flatMap((item) => Object.values(item))

for (const [whose, document] of Object.entries({ member: openapi, stranger })) {
  t.test(`the document of a ${whose} is OpenAPI 3.1`, async (t) => {
    const { valid, errors } = await new Validator().validate(structuredClone(document))
    t.ok(valid, JSON.stringify(errors))
    t.match(document['openapi'], /^3\.1\./)
    const ids = Object.values(document.paths).flatMap((item) =>
      Object.values(item).map(({ operationId }) => operationId),
    )
    t.equal(new Set(ids).size, ids.length, 'each operation has an id of its own')
  })

  t.test(
    `every schema in the document of a ${whose} is JSON Schema 2020-12, and every reference leads somewhere`,
    async (t) => {
      const ajv = new Ajv2020({ strict: false })
      addFormats.default(ajv)
      ajv.addSchema(document, 'document', false, false)
      for (const [pointer, { schema }] of partsOf(document)) {
        if (typeof schema !== 'object') continue
        const uri = `document#${encodeURI(`${pointer}/schema`)}`
        t.doesNotThrow(() => ajv.getSchema(uri), uri)
        t.equal(ajv.validateSchema(schema as object), true, ajv.errorsText())
      }
      for (const [name, schema] of Object.entries(document.components.schemas)) {
        t.equal(ajv.validateSchema(schema), true, `${name} ${ajv.errorsText()}`)
      }
    },
  )

  t.test(`every example in the document of a ${whose} matches its schema`, async (t) => {
    const judge = createJudge(document)
    const examples = [...examplesIn(document)]
    for (const [pointer, example] of examples) t.strictSame(judge(pointer, example), [], pointer)
    t.ok(examples.length > 150, `${examples.length} examples`)
    for (const [pointer, event] of streamedIn(document)) t.strictSame(judge(pointer, event), [], pointer)
  })
}

/** The events in the examples of streams, each with the JSON Pointer of its schema. */
function* streamedIn(document: object): Generator<readonly [pointer: string, event: unknown]> {
  for (const [pointer, part] of partsOf(document)) {
    if (!('x-itemSchema' in part)) continue
    const { story } = part['examples'] as { readonly story: { readonly value: string } }
    const lines = [...story.value.matchAll(/^(?:data: )?(\{.*)$/gm)]
    if (lines.length !== 4) throw new Error(`Expected four events, got ${lines.length}`)
    for (const [, text = ''] of lines) yield [`${pointer}/x-itemSchema`, JSON.parse(text)]
  }
}

t.test('every route is in the document, and nothing else is', async (t) => {
  const described = Object.entries(openapi.paths).flatMap(([path, item]) =>
    Object.keys(item).map((method) => `${method.toUpperCase()} ${path}`),
  )
  const registered = routes
    .filter(({ method }) => method !== 'HEAD' && method !== 'OPTIONS')
    .map(({ method, url }) => `${String(method)} ${url.replaceAll(/:(\w+)/g, '{$1}')}`)
  t.same(described.toSorted(), registered.toSorted())
  t.ok(registered.length >= 20)
})

t.test('everything that is in the document is described', async (t) => {
  for (const { operationId, summary, tags, responses } of operations) {
    t.ok(operationId && summary && tags, `${operationId}`)
    t.ok(
      Object.keys(responses).some((status) => Number(status) < 400),
      `${operationId}`,
    )
  }
})

t.test('every problem is in the document: of a route, by its status, or of a job', async (t) => {
  const found = new Set<string>()
  for (const { responses } of operations) {
    for (const [status, { $ref }] of Object.entries(responses)) {
      if (typeof $ref !== 'string') continue
      for (const code of $ref.split('/').at(-1)?.split('.') ?? []) {
        found.add(code)
        t.equal(problems[code as ProblemCode].status, Number(status), code)
      }
    }
  }
  const ofJobs = (openapi.components.schemas['JobError'] as { properties: { code: { enum: string[] } } })
    .properties.code
  t.same([...found, ...ofJobs.enum].toSorted(), Object.keys(problems).toSorted())
})

t.test('the job types in it are those that whoever asks may submit', async (t) => {
  const typesIn = ({ components }: OpenApi) =>
    Object.keys(components.schemas)
      .filter((name) => name.startsWith('input.'))
      .map((name) => name.slice(6))
  t.same(typesIn(openapi), [...Object.keys(types), 'tree', 'twin'])
  t.same(typesIn(await documentFor({ types: ['chat'] })), ['chat'])
  t.same(typesIn(await documentFor({ scopes: ['jobs:read'] })), [])
  t.same(typesIn(stranger), [])
  t.notMatch(JSON.stringify(stranger), 'countdown')
  const { url } = gateway
  await isProblem(
    t,
    await fetch(`${url}/openapi.json`, { headers: { authorization: 'Bearer qk_x_y' } }),
    'unauthorized',
  )
})

t.test('where everybody is let in, everybody is shown them, and credentials are optional', async (t) => {
  const { url } = await startGateway(t, { echo: { steps: ['echo'] } }, { redis: gateway.redis })
  const document = (await (await fetch(`${url}/openapi.json`)).json()) as OpenApi
  t.ok('input.echo' in document.components.schemas)
  t.strictSame(document.paths['/jobs']?.['post']?.['security'], [{}, { key: ['jobs:write'] }])
  t.strictSame(openapi.paths['/jobs']?.['post']?.['security'], [{ key: ['jobs:write'] }])
})

t.test('the page is made of what this host has, and may reach nothing else', async (t) => {
  const response = await fetch(`${gateway.url}/docs`)
  const policy = (response.headers.get('content-security-policy') ?? '').split('; ')
  const sources = policy.flatMap((directive) => directive.split(' ').slice(1))
  t.strictSame([...new Set(sources)].toSorted(), ["'none'", "'self'", "'unsafe-inline'", 'data:'])
  t.ok(policy.includes("default-src 'none'") && policy.includes("script-src 'self'"))
  const files = [...(await response.text()).matchAll(/ (?:src|href)="([^"]+)"/g)].map(([, path]) => path)
  t.equal(files.length, 4)
  for (const path of files) {
    const file = await fetch(new URL(path ?? '', response.url))
    t.match([file.url, file.status], [RegExp(`^${gateway.url}/docs/`), 200])
    t.equal(file.headers.get('x-content-type-options'), 'nosniff')
    await file.body?.cancel()
  }
})

t.test('a request is judged by the document as it is by the gateway', async (t) => {
  const pointer = '/paths/~1jobs/post/requestBody/content/application~1json/schema'
  const judge = createJudge(openapi)
  const key = await gateway.as()
  const requests = [
    { type: 'chat', input: { prompt: 'hello' } },
    { type: 'chat', input: { prompt: '' } },
    { type: 'chat', input: { from: 1 } },
    { type: 'chat' },
    { type: 'echo' },
    { type: 'echo', input: [1], metadata: { n: '1' }, priority: 3, deadline_ms: 5_000 },
    { type: 'echo', metadata: { n: 1 } },
    { type: 'echo', priority: -1 },
    { type: 'echo', callback_events: ['job.snapshot'] },
    { type: 'echo', more: 1 },
    { type: 'nothing' },
    { type: 'tree', input: { of: { of: { leaf: 'oak' } } } },
    { type: 'tree', input: { of: { of: { leaf: 1 } } } },
    { type: 'tree', input: { of: { of: 1 } } },
    { type: 'twin', input: 1 },
    { type: 'twin', input: {} },
    { input: 1 },
    [],
  ]
  const verdicts = await Promise.all(
    requests.map(async (request) => [JSON.stringify(request), (await key.post(request)).status === 202]),
  )
  t.same(
    requests.map((request) => [JSON.stringify(request), judge(pointer, request).length === 0]),
    verdicts,
  )
  t.equal(verdicts.filter(([, isTaken]) => isTaken).length, 5)
})

t.test('references lead somewhere from properties of any name', async (t) => {
  const properties = Object.fromEntries(
    ['default', 'const', 'enum', 'examples', 'other'].map((name) => [name, { $ref: '#/$defs/text' }]),
  )
  const input = { type: 'object', $defs: { text: { type: 'string' } }, properties, default: { $ref: '#' } }
  const { types } = parseCatalog({ types: { t: { steps: ['q'], input } } })
  const described = requestSchemas([...types.values()]) as Record<string, typeof input>
  const each = { $ref: '#/components/schemas/input.t/$defs/text' }
  t.same(
    new Set(Object.values(described['input.t']?.properties ?? {}).map((at) => JSON.stringify(at))),
    new Set([JSON.stringify(each)]),
  )
  t.same(described['input.t']?.default, { $ref: '#' }, 'a value stays what it is')
})

t.test('refusals that no route asks for are described wherever they can be met', async (t) => {
  type Responses = Record<string, Record<string, { responses: Record<string, unknown> }>>
  const keyed = openapi.paths as unknown as Responses
  t.match(JSON.stringify(keyed['/openapi.json']?.['get']?.responses['429']), 'rate_limited')
  t.match(JSON.stringify(keyed['/jobs']?.['get']?.responses['429']), 'rate_limited')
  t.notOk(keyed['/livez']?.['get']?.responses['403'])
  const { url } = await startGateway(t, { t: { steps: ['q'] } })
  const document = (await (await fetch(`${url}/openapi.json`)).json()) as { paths: Responses }
  for (const item of Object.values(document.paths)) {
    for (const { responses } of Object.values(item)) t.match(JSON.stringify(responses['403']), 'forbidden')
  }
})
