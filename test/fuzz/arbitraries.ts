import * as fc from 'fast-check'
import { headerValues, jsonTexts, pathParts, texts, utf8 } from './corpus.ts'
import type { RawRequest } from './raw-http.ts'

/** JSON, hostile JSON, and what only looks like it. */
export const jsonText: fc.Arbitrary<string> = fc.oneof(
  { weight: 4, arbitrary: fc.constantFrom(...jsonTexts) },
  { weight: 2, arbitrary: fc.json({ maxDepth: 2 }).map(utf8) },
  {
    weight: 1,
    arbitrary: fc.string({ unit: 'binary', maxLength: 20 }).map((text) => utf8(JSON.stringify(text))),
  },
)

export const name = fc.constantFrom(
  'type',
  'input',
  'metadata',
  'priority',
  'delay_ms',
  'deadline_ms',
  'callback_url',
  'callback_events',
  'jobs',
  'idempotency_key',
  'after',
  'ttl_s',
  'origin',
  'since',
  '__proto__',
  'constructor',
  'toString',
  '',
  'x\\r\\ny',
)

type Members = readonly (readonly [name: string, json: string])[]

/** An object in JSON whose members were replaced, left out, doubled or added. */
export function mutated(members: Members): fc.Arbitrary<string> {
  const change = fc.tuple(
    fc.nat({ max: 100 }),
    fc.constantFrom('replace', 'remove', 'double', 'add'),
    name,
    jsonText,
  )
  return fc.array(change, { minLength: 1, maxLength: 3 }).map((changes) => {
    const now = [...members]
    for (const [at, how, name, json] of changes) {
      const index = at % Math.max(now.length, 1)
      const member = now[index]
      if (how === 'add' || !member) now.push([name, json])
      else if (how === 'remove') now.splice(index, 1)
      else if (how === 'double') now.push([member[0], json])
      else now[index] = [member[0], json]
    }
    return `{${now.map(([name, json]) => `"${name}":${json}`).join()}}`
  })
}

/** Bytes with some of them changed, put in, left out, or the end cut off. */
export function scrambled(bytes: fc.Arbitrary<string>): fc.Arbitrary<string> {
  const piece = fc.oneof(
    fc.constantFrom(
      '\0',
      '\r',
      '\n',
      '\r\n',
      '\r\n\r\n',
      ' ',
      ':',
      '"',
      '{',
      '[',
      '\\',
      '%',
      '\xff',
      '\x80',
      '\t',
      '\xed\xa0\x80',
    ),
    fc.nat({ max: 255 }).map((code) => String.fromCharCode(code)),
  )
  const change = fc.tuple(fc.nat({ max: 2 ** 20 }), fc.constantFrom('put', 'set', 'drop', 'cut'), piece)
  return fc.tuple(bytes, fc.array(change, { minLength: 1, maxLength: 4 })).map(([bytes, changes]) =>
    changes.reduce((bytes, [position, how, piece]) => {
      const at = position % (bytes.length + 1)
      const rest = { put: bytes.slice(at), set: bytes.slice(at + 1), drop: bytes.slice(at + 1), cut: '' }[how]
      return bytes.slice(0, at) + (how === 'put' || how === 'set' ? piece : '') + rest
    }, bytes),
  )
}

/** A request target's characters; what cannot stand there ends the request line, and is for {@link scrambled} to try. */
const targetText = fc.oneof(
  fc.constantFrom(...texts, ...jsonTexts).map((text) => encodeLoosely(text)),
  fc.string({ unit: 'binary', maxLength: 20 }).map((text) => encodeLoosely(text)),
)

function encodeLoosely(text: string): string {
  return encodeURIComponent(Buffer.from(text.slice(0, 600)).toString()).replaceAll('%2F', '/')
}

/** One call of the API, from /openapi.json. */
export interface Call {
  readonly method: string
  readonly path: string
  readonly query: readonly string[]
}

const method = fc.constantFrom(
  'GET',
  'HEAD',
  'POST',
  'PUT',
  'DELETE',
  'PATCH',
  'OPTIONS',
  'TRACE',
  'PROPFIND',
  'QUERY',
)

/** The targets of a call: its parameters are jobs that have ended, or anything. */
function target(call: Call, ids: readonly string[]): fc.Arbitrary<string> {
  const part = fc.oneof(
    { weight: 2, arbitrary: fc.constantFrom(...ids) },
    { weight: 2, arbitrary: fc.constantFrom(...pathParts) },
    { weight: 1, arbitrary: targetText },
  )
  const names = [...call.query, 'token', 'after', 'limit', '__proto__', '']
  const pair = fc.tuple(fc.constantFrom(...names), targetText).map(([name, value]) => `${name}=${value}`)
  return fc
    .tuple(
      fc.array(part, { minLength: 2, maxLength: 2 }),
      fc.oneof(fc.constant([]), fc.array(pair, { maxLength: 3 })),
    )
    .map(([parts, pairs]) => {
      const path = call.path.replace(/\{\w+\}/g, (_, at: number) => parts[at < 7 ? 0 : 1] ?? '')
      return pairs.length > 0 ? `${path}?${pairs.join('&')}` : path
    })
}

const headerName = fc.constantFrom(
  'Accept',
  'Accept-Encoding',
  'Content-Type',
  'Idempotency-Key',
  'If-None-Match',
  'If-Match',
  'Last-Event-ID',
  'Prefer',
  'Origin',
  'X-Request-Id',
  'X-Correlation-Id',
  'traceparent',
  'tracestate',
  'Authorization',
  'Host',
  'Cookie',
  'Range',
  'X-Forwarded-For',
  'X-Forwarded-Host',
  'Forwarded',
  'Access-Control-Request-Method',
  'X-HTTP-Method-Override',
  'Referer',
  'Content-Encoding',
  'Accept-Language',
  '__proto__',
  'constructor',
  'Via',
  'TE',
  'Trailer',
  'Keep-Alive',
  'Cache-Control',
)
const header = fc.tuple(
  headerName,
  fc.oneof(
    { weight: 3, arbitrary: fc.constantFrom(...headerValues) },
    {
      weight: 1,
      arbitrary: fc
        .string({ unit: 'binary', maxLength: 40 })
        .map((text) => utf8(text).replace(/[\r\n\0]/g, '')),
    },
  ),
)

/** The members of a valid body of each route that takes one. */
const bodies: Readonly<Record<string, Members>> = {
  'POST /jobs': [
    ['type', '"echo"'],
    ['input', '{"a":1}'],
    ['metadata', '{"a":"b"}'],
    ['priority', '1'],
    ['callback_events', '["*"]'],
    ['callback_url', '"http://127.0.0.1:9/"'],
  ],
  'POST /jobs/batch': [['jobs', '[{"type":"echo","input":1},{"type":"judged","input":{"word":"aaa"}}]']],
  'PUT /jobs/{id}/callback': [
    ['callback_url', '"http://127.0.0.1:9/"'],
    ['callback_events', '["job.completed"]'],
    ['after', '0'],
  ],
  'POST /jobs/{id}/tokens': [['ttl_s', '60']],
  'POST /deliveries/redeliver': [
    ['origin', '"http://127.0.0.1:9"'],
    ['since', '"2026-01-01T00:00:00Z"'],
  ],
}
const judgedInput: Members = [
  ['word', '"aaa"'],
  ['url', '"http://example.com"'],
  ['email', '"a@b.example"'],
  ['set', '[1,{"a":2}]'],
  ['tree', '[[],[[]]]'],
]

/**
 * Requests that are well framed: each takes one call of the API and has its target, its headers, its method or its body
 * be hostile. Those of a body have plain headers, or they would wait for jobs that are to begin in a year.
 */
export function requests(
  calls: readonly Call[],
  ids: readonly string[],
  authorization: string,
): fc.Arbitrary<RawRequest> {
  const base = [
    ['Host', '127.0.0.1'],
    ['Authorization', authorization],
  ] as const
  const typed = [...base, ['Content-Type', 'application/json']] as const
  const ended = ids[0] ?? ''
  const pathOf = ({ path }: Call) => path.replace('{id}', ended).replace('{seq}', '1')
  const bodyOf = ({ method, path }: Call) => bodies[`${method} ${path}`]
  const plainBody = (call: Call): string | null => {
    if (call.method === 'POST' && call.path === '/jobs') return '{"type":"echo"}'
    const members = bodyOf(call)
    return members ? `{${members.map(([name, json]) => `"${name}":${json}`).join()}}` : null
  }
  const call = fc.constantFrom(...calls)
  const withBody = fc.constantFrom(...calls.filter((each) => bodyOf(each)))

  const hostileTarget = call.chain((call) =>
    fc
      .tuple(
        fc.oneof({ weight: 4, arbitrary: fc.constant(call.method) }, { weight: 1, arbitrary: method }),
        target(call, ids),
      )
      .map(([method, target]): RawRequest => ({ method, target, headers: typed, body: plainBody(call) })),
  )
  const hostileHeaders = fc
    .tuple(call, fc.array(header, { minLength: 1, maxLength: 3 }))
    .map(([call, headers]): RawRequest => {
      const names = new Set(headers.map(([name]) => name.toLowerCase()))
      const kept = typed.filter(([name]) => !names.has(name.toLowerCase()))
      return {
        method: call.method,
        target: pathOf(call),
        headers: [...kept, ...headers],
        body: plainBody(call),
      }
    })
  const hostileBody = withBody.chain((call) => {
    const members = bodyOf(call) ?? []
    const whole = mutated(members)
    const input = mutated(judgedInput).map((input) => `{"type":"judged","input":${input}}`)
    return fc
      .oneof(
        { weight: 5, arbitrary: whole },
        { weight: 2, arbitrary: call.path === '/jobs' ? input : whole },
        {
          weight: 1,
          arbitrary:
            call.path === '/jobs/batch'
              ? mutated(bodies['POST /jobs'] ?? []).map((job) => `{"jobs":[${job}]}`)
              : whole,
        },
        { weight: 1, arbitrary: jsonText },
        { weight: 3, arbitrary: scrambled(whole) },
      )
      .map((body): RawRequest => ({ method: call.method, target: pathOf(call), headers: typed, body }))
  })
  return fc.oneof(
    { weight: 3, arbitrary: hostileTarget },
    { weight: 3, arbitrary: hostileHeaders },
    { weight: 4, arbitrary: hostileBody },
  )
}
