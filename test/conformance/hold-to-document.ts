import type { Test } from 'tap'
import { createJudge, partsOf, type Part } from '../document.ts'
import { eventsIn, all } from './clients.ts'

interface DescribedAnswer extends Part {
  readonly $ref?: string
  readonly headers?: Readonly<Record<string, { readonly required?: boolean }>>
  readonly content?: Readonly<Record<string, Part>>
}
interface OpenApi {
  readonly paths: Readonly<
    Record<
      string,
      Readonly<Record<string, { readonly responses: Readonly<Record<string, DescribedAnswer>> }>>
    >
  >
  readonly components: {
    readonly schemas: Readonly<Record<string, Part>>
    readonly responses: Readonly<Record<string, DescribedAnswer>>
  }
}

/** What every answer may have: of HTTP itself, for browsers (docs/SECURITY.md). */
const ofEveryAnswer =
  /^(connection|content-(length|security-policy|type)|cross-origin-resource-policy|date|keep-alive|referrer-policy|transfer-encoding|x-(content-type-options|frame-options))$/

/**
 * Holds answers against an OpenAPI document: their status, headers, media type and body are described, and nothing is in
 * them that is not.
 *
 * @returns `hold`, and what it has seen: `GET /jobs/{id} 200`, and the codes of problems
 */
export function createHold(document: object) {
  const { paths, components } = document as OpenApi
  const judge = createJudge(withoutMore(document))
  const answers = new Set<string>()
  const codes = new Set<string>()

  /** @returns the body's JSON; of a stream its events, of other text the text */
  async function hold(t: Test, response: Response, method: string): Promise<unknown> {
    const { pathname } = new URL(response.url)
    const path = Object.keys(paths).find((each) => matches(each, pathname)) ?? pathname
    const status = String(response.status)
    const name = `${method} ${path} ${status}`
    const described = paths[path]?.[method.toLowerCase()]?.responses[status]
    if (!described) throw new Error(`Expected ${name} in the document, got ${await response.text()}`)
    answers.add(name)
    const shared = described.$ref?.split('/').at(-1) ?? ''
    const { headers = {}, content = {} } = described.$ref ? (components.responses[shared] ?? {}) : described
    const place = described.$ref
      ? `/components/responses/${escape(shared)}`
      : `/paths/${escape(path)}/${method.toLowerCase()}/responses/${status}`

    const known = new Map(Object.keys(headers).map((header) => [header.toLowerCase(), header]))
    for (const [header, value] of response.headers) {
      const described = known.get(header)
      if (described)
        t.strictSame(judge(`${place}/headers/${described}/schema`, value), [], `${name} ${header}`)
      else t.match(header, ofEveryAnswer, `${name} has no other header`)
    }
    for (const [header, { required }] of Object.entries(headers)) {
      if (required) t.ok(response.headers.has(header), `${name} has ${header}`)
    }

    const [type = ''] = (response.headers.get('content-type') ?? '').split(';')
    if (type === '') return t.strictSame([await response.text(), content], ['', {}], `${name} has no body`)
    t.ok(content[type], `${name} may be ${type}`)
    const media = `${place}/content/${escape(type)}`
    if (content[type]?.['x-itemSchema'] !== undefined) {
      const events = (await all(eventsIn(response))).map((text) => JSON.parse(text) as unknown)
      for (const event of events) t.strictSame(judge(`${media}/x-itemSchema`, event), [], `${name} ${type}`)
      return events
    }
    if (!type.endsWith('json')) return response.text()
    const body = (await response.json()) as Part
    t.strictSame(judge(`${media}/schema`, body), [], name)
    if (type === 'application/problem+json') codes.add(String(body['code']))
    return body
  }

  return { hold, judge, answers, codes }
}

/** The document, in which no answer may have a member that is not described. */
function withoutMore(document: object): object {
  const strict = structuredClone(document)
  const { schemas } = (strict as OpenApi).components
  for (const [name, schema] of Object.entries(schemas)) {
    // Those of jobs are the operator’s.
    if (/^(input|job)\./.test(name)) continue
    for (const [, part] of partsOf(schema)) {
      const { type, properties } = part
      if ([type].flat().includes('object') && properties) Object.assign(part, { additionalProperties: false })
    }
  }
  return strict
}

function matches(path: string, pathname: string): boolean {
  const [parts, given] = [path.split('/'), pathname.split('/')]
  return (
    parts.length === given.length && parts.every((part, at) => part.startsWith('{') || part === given[at])
  )
}

function escape(name: string): string {
  return name.replaceAll('~', '~0').replaceAll('/', '~1')
}
