import type { Needs } from '../access/authenticate.ts'
import { problems, type ProblemCode } from '../errors.ts'
import { headers, type HeaderName } from './headers.ts'
import { problemExample } from './examples.ts'
import { ref } from './operation.ts'

const problemCodes = Object.keys(problems) as ProblemCode[]
const statusOf = (code: ProblemCode): number => problems[code].status

/** Those that a request can meet wherever it goes. */
const anywhere: readonly ProblemCode[] = [
  'malformed_request',
  'request_timeout',
  'headers_too_large',
  'internal',
]
/** Those of whoever has to say who he is; an authorizer may forbid anything. */
const guarded: readonly ProblemCode[] = [
  'unauthorized',
  'missing_scope',
  'forbidden',
  'store_unavailable',
  'authentication_unavailable',
]
const ofBodies: readonly ProblemCode[] = [
  'malformed_json',
  'payload_too_large',
  'unsupported_media_type',
  'invalid',
]

/** What may come with any problem: it says no less of a request than another answer would. */
const everywhere: readonly HeaderName[] = [
  'X-Request-Id',
  'Cache-Control',
  'Vary',
  'RateLimit',
  'RateLimit-Policy',
]
/** What may come with one of this status. */
const mayHave: Readonly<Record<number, readonly HeaderName[]>> = {
  401: ['WWW-Authenticate'],
  403: ['WWW-Authenticate'],
  404: ['Retry-After'],
  426: ['Upgrade'],
  429: ['Retry-After'],
  503: ['Retry-After'],
}

/** Limits: one that no guarded route names is for all that know who asks. */
const ofLimits = problemCodes.filter((code) => statusOf(code) === 429)

export interface Asked {
  readonly url: string
  readonly needs: Needs | 'open'
  /** Whether everybody is let in: then it is looked at under which name the gateway is asked. */
  readonly isOpen: boolean
  readonly hasBody: boolean
}

/**
 * The problems of a route: its own, and those that follow from what it asks for.
 *
 * @param own those that it names
 * @param named those that any route names
 * @returns references to responses by status, each of all the codes that it can have
 */
export function problemsOf(
  { url, needs, isOpen, hasBody }: Asked,
  own: readonly ProblemCode[],
  named: ReadonlySet<ProblemCode>,
): Readonly<Record<string, object>> {
  const given = new Set<ProblemCode>([
    ...anywhere,
    ...(isOpen ? ['forbidden' as const] : []),
    ...(needs === 'open'
      ? []
      : [...guarded, ...ofLimits.filter((code) => code === 'rate_limited' || !named.has(code))]),
    ...(url.includes('/:') ? ['no_such_route' as const] : []),
    ...(hasBody ? ofBodies : []),
    ...own,
  ])
  const byStatus = new Map<number, ProblemCode[]>()
  // In the order of the table, so that the same codes are one response.
  for (const code of problemCodes.filter((code) => given.has(code))) {
    byStatus.set(statusOf(code), [...(byStatus.get(statusOf(code)) ?? []), code])
  }
  return Object.fromEntries(
    [...byStatus].map(([status, codes]) => [status, { $ref: `#/components/responses/${codes.join('.')}` }]),
  )
}

/** The response that a reference of {@link problemsOf} is to. */
export function problemResponse(name: string): object {
  const codes = name.split('.') as ProblemCode[]
  const [status] = codes.map(statusOf)
  const names = [...everywhere, ...(mayHave[status ?? 0] ?? [])]
  return {
    description: codes.map((code) => `\`${code}\`: ${problems[code].title}.`).join(' '),
    headers: Object.fromEntries(names.map((name) => [name, headers[name]])),
    content: {
      'application/problem+json': {
        schema: {
          allOf: [ref('Problem'), { properties: { status: { const: status }, code: { enum: codes } } }],
        },
        examples: Object.fromEntries(codes.map((code) => [code, { value: problemExample(code) }])),
      },
    },
  }
}
