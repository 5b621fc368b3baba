import { mkdtempSync, writeFileSync } from 'node:fs'
import { rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { CatalogError, createAjv, fairQueues, parseCatalog, readCatalog } from '../src/catalog.ts'
import * as messages from '../src/messages.ts'
import { stepSchema } from '../src/steps.ts'

t.test('the catalogue of the repository itself can be used', (t) => {
  const { types, queues } = readCatalog('quartet.config.json')
  t.strictSame([...types.keys()], ['order', 'chat', 'echo', 'countdown'])
  t.strictSame(queues, ['inventory', 'payment', 'shipping', 'notification', 'chat', 'echo', 'countdown'])
  t.end()
})

t.test('a type needs nothing but steps; the rest has defaults', (t) => {
  const { types, queues } = parseCatalog({ types: { echo: { steps: ['echo'] } } })
  const echo = types.get('echo')
  t.match(echo, {
    name: 'echo',
    steps: [{ queue: 'echo', attempts: 3, backoffMs: 500 }],
    retentionMs: 86_400_000,
    deadlineMs: 600_000,
    journalLimit: 10_000,
    maxWaitingPerTenant: null,
    isFair: null,
  })
  t.strictSame(echo?.violations({ any: ['thing'] }), [])
  t.strictSame(queues, ['echo'])
  t.end()
})

t.test('a step says for itself how often it is tried, or its type does', (t) => {
  const steps = ['a', { queue: 'b' }, { queue: 'c', attempts: 9 }, { queue: 'd', backoff_ms: 0 }]
  const { types } = parseCatalog({
    types: {
      x: {
        steps,
        attempts: 2,
        backoff_ms: 7,
        retention_s: 60,
        deadline_ms: 5,
        journal_limit: 10,
        max_waiting: 3,
        max_waiting_per_tenant: 2,
        fair: true,
      },
    },
  })
  t.match(types.get('x'), {
    steps: [
      { queue: 'a', attempts: 2, backoffMs: 7 },
      { queue: 'b', attempts: 2, backoffMs: 7 },
      { queue: 'c', attempts: 9, backoffMs: 7 },
      { queue: 'd', attempts: 2, backoffMs: 0 },
    ],
    retentionMs: 60_000,
    deadlineMs: 5,
    journalLimit: 10,
    maxWaiting: 3,
    maxWaitingPerTenant: 2,
    isFair: true,
  })
  t.end()
})

t.test('tenants take turns in the queues of a type that is fair, whichever others share them', (t) => {
  const catalog = parseCatalog({
    types: {
      x: { steps: ['a', 'b'], fair: true },
      y: { steps: ['b', 'c'] },
      z: { steps: ['c', 'd'], fair: false },
    },
  })
  t.strictSame(fairQueues(catalog, false), new Set(['a', 'b']))
  t.strictSame(fairQueues(catalog, true), new Set(['a', 'b', 'c']), 'where that is the default')
  t.end()
})

t.test('types may share queues, and each queue is named once', (t) => {
  const { queues } = parseCatalog({ types: { x: { steps: ['a', 'b'] }, y: { steps: ['b', 'c'] } } })
  t.strictSame(queues, ['a', 'b', 'c'])
  t.end()
})

t.test('a service is a step, in a queue that is named after it unless it is given another name', (t) => {
  const long = `http://a/${'x'.repeat(200)}`
  const steps = [
    { http: { url: 'http://payment/payments', timeout_ms: 2_000 } },
    { http: { url: 'https://Ship.internal:8443/v1/book:now/?dry=1', concurrency: 3 }, attempts: 9 },
    { http: { url: 'http://payment' }, queue: 'refund' },
    { http: { url: long } },
    'plain',
  ]
  const { types, queues, services } = parseCatalog({ types: { x: { steps } } })
  const [one, two, three, four, plain] = types.get('x')?.steps ?? []
  const service = { timeoutMs: 30_000, concurrency: 10 }
  t.match(one, {
    queue: 'payment/payments',
    attempts: 3,
    service: { ...service, url: 'http://payment/payments', timeoutMs: 2_000 },
  })
  t.match(two, {
    queue: 'ship.internal-8443/v1/book-now',
    attempts: 9,
    service: { ...service, url: 'https://ship.internal:8443/v1/book:now/?dry=1', concurrency: 3 },
  })
  t.match(three, { queue: 'refund', service: { ...service, url: 'http://payment/' } })
  t.match(four?.queue, /^a\/x{89}-[0-9a-f]{8}$/)
  t.match(plain, { queue: 'plain', service: null })
  t.equal(queues.length, 5)
  t.strictSame(
    [...services],
    [one, two, three, four].map((step) => [step?.queue, step?.service]),
  )
  t.end()
})

t.test('a queue is one service’s wherever it is a step, or nobody’s', (t) => {
  const http = { url: 'http://a/b' }
  const two = (one: unknown, other: unknown) =>
    structuredClone({ types: { x: { steps: [one] }, y: { steps: ['first', other] } } })
  t.equal(parseCatalog(two({ http }, { http, queue: 'a/b', attempts: 7 })).services.size, 1)
  for (const [one, other] of [
    [
      { http, queue: 'q' },
      { http: { url: 'http://a/c' }, queue: 'q' },
    ],
    [
      { http, queue: 'q' },
      { http: { ...http, timeout_ms: 1 }, queue: 'q' },
    ],
    [{ http, queue: 'q' }, 'q'],
    ['q', { http, queue: 'q' }],
  ]) {
    t.equal(
      refusalOf(() => parseCatalog(two(one, other))),
      'types.y.steps[1]: Expected the same http as in types.x.steps[0], or another queue, got the queue q twice',
    )
  }
  t.match(
    refusalOf(() => parseCatalog(two({ http }, { http: { url: 'https://a/b' } }))),
    /got the queue a\/b twice$/,
  )
  t.end()
})

t.test('what cannot be used is refused with the place where it is', (t) => {
  const order = (fields: object) => ({ types: { order: { steps: ['a'], ...fields } } })
  const steps = (...steps: unknown[]) => order({ steps })
  const cases: [source: unknown, message: string | RegExp][] = [
    [null, 'the file: must be object'],
    [[], 'the file: must be object'],
    [{}, 'types: is required'],
    [{ types: [] }, 'types: must be object'],
    [{ types: {} }, 'types: must NOT have fewer than 1 properties'],
    [{ ...order({}), tpyes: {} }, 'tpyes: is not known'],
    [{ types: { order: null } }, 'types.order: must be object'],
    [{ types: { order: {} } }, 'types.order.steps: is required'],
    [{ types: { 'bad name': { steps: ['a'] } } }, /^types\.bad name: must match pattern/],
    [{ types: { 'a/b~c': { steps: ['a'] } } }, /^types\.a\/b~c: must match pattern/],
    [order({ step: [] }), 'types.order.step: is not known'],
    [order({ steps: 'a' }), 'types.order.steps: must be array'],
    [steps(), 'types.order.steps: must NOT have fewer than 1 items'],
    [steps(...Array.from({ length: 51 }, (_, n) => `q${n}`)), /^types\.order\.steps: .*50 items/],
    [steps('a', 3), 'types.order.steps[1]: must be object'],
    [steps('a', ''), /^types\.order\.steps\[1\]: must match pattern/],
    [steps('a', 'b:c'), /^types\.order\.steps\[1\]: must match pattern/],
    [steps('a', 'b c'), /^types\.order\.steps\[1\]: must match pattern/],
    [steps('a', 'x'.repeat(101)), /^types\.order\.steps\[1\]: .*100 characters/],
    [steps('a', {}), 'types.order.steps[1].queue: is required'],
    [steps('a', { queue: 'b:c' }), /^types\.order\.steps\[1\]\.queue: must match pattern/],
    [steps('a', { queue: 'b', attempts: 0 }), 'types.order.steps[1].attempts: must be >= 1'],
    [steps('a', { queue: 'b', backoff_ms: -1 }), 'types.order.steps[1].backoff_ms: must be >= 0'],
    [steps('a', { queue: 'b', atempts: 1 }), 'types.order.steps[1].atempts: is not known'],
    [steps('a', 'b', 'a'), 'types.order.steps[2]: Expected each queue once in a route, got a again'],
    [steps('a', { queue: 'a' }), 'types.order.steps[1]: Expected each queue once in a route, got a again'],
    [steps({ http: {} }), 'types.order.steps[0].http.url: is required'],
    [steps({ http: 'http://a' }), 'types.order.steps[0].http: must be object'],
    [steps({ http: { url: 'http://a', method: 'GET' } }), 'types.order.steps[0].http.method: is not known'],
    [
      steps({ http: { url: 'http://a', timeout_ms: 0 } }),
      'types.order.steps[0].http.timeout_ms: must be >= 1',
    ],
    [
      steps({ http: { url: 'http://a', concurrency: 0 } }),
      'types.order.steps[0].http.concurrency: must be >= 1',
    ],
    [steps({ http: { url: 'a' } }), 'types.order.steps[0].http.url: Expected an http or https URL, got "a"'],
    [
      steps({ http: { url: 'ftp://a/b' } }),
      'types.order.steps[0].http.url: Expected an http or https URL, got "ftp://a/b"',
    ],
    [
      steps({ http: { url: 'http://u:secret@a/b' } }),
      'types.order.steps[0].http.url: Expected a URL without user name and password, got one with them',
    ],
    [
      steps({ http: { url: 'http://a/b' } }, { http: { url: 'http://a/b' } }),
      'types.order.steps[1]: Expected each queue once in a route, got a/b again',
    ],
    [order({ attempts: '3' }), 'types.order.attempts: must be integer'],
    [order({ backoff_ms: 1.5 }), 'types.order.backoff_ms: must be integer'],
    [order({ retention_s: 0 }), 'types.order.retention_s: must be >= 1'],
    [order({ deadline_ms: 0 }), 'types.order.deadline_ms: must be >= 1'],
    [order({ max_waiting: 0 }), 'types.order.max_waiting: must be >= 1'],
    [order({ fair: 'yes' }), 'types.order.fair: must be boolean'],
    [order({ max_waiting_per_tenant: 0 }), 'types.order.max_waiting_per_tenant: must be >= 1'],
    [order({ journal_limit: 9 }), 'types.order.journal_limit: must be >= 10'],
    [order({ input: 'object' }), 'types.order.input: must be object,boolean'],
    [order({ input: { type: 'strnig' } }), /^types\.order\.input: schema is invalid: data\/type/],
    [order({ input: { tpye: 'object' } }), 'types.order.input: strict mode: unknown keyword: "tpye"'],
    [order({ input: { format: 'emali' } }), /^types\.order\.input: unknown format "emali"/],
    [order({ input: { pattern: '[' } }), /^types\.order\.input: Invalid regular expression/],
    [order({ input: { $ref: '#/$defs/none' } }), /^types\.order\.input: can't resolve reference/],
    [order({ input: { $async: true } }), /^types\.order\.input: .*\$async/],
  ]
  for (const [source, message] of cases) {
    const got = refusalOf(() => parseCatalog(source))
    if (typeof message === 'string') t.equal(got, message)
    else t.match(got, message)
  }
  t.end()
})

t.test('an input is told every way in which it does not match', (t) => {
  const input = {
    type: 'object',
    required: ['id', 'a/b'],
    additionalProperties: false,
    propertyNames: { maxLength: 5 },
    properties: {
      id: { type: 'string', format: 'uuid' },
      'a/b': { enum: ['x', 'y'] },
      list: { type: 'array', items: { type: 'integer' } },
      one: { const: 1 },
    },
  }
  const { types } = parseCatalog({ types: { order: { steps: ['a'], input } } })
  const violations = types.get('order')?.violations ?? (() => [])
  const id = '0199a000-0000-7000-8000-000000000001'
  t.strictSame(violations({ id, 'a/b': 'x' }), [])
  t.strictSame(violations([]), [{ path: '', message: 'must be object' }])
  t.strictSame(violations({ id: 'no', list: [1, 'two'], one: 2, 'x~y': 0 }), [
    { path: '/a~1b', message: 'is required' },
    { path: '/x~0y', message: 'is not known' },
    { path: '/id', message: 'must match format "uuid"' },
    { path: '/list/1', message: 'must be integer' },
    { path: '/one', message: 'must be equal to constant: 1' },
  ])
  t.match(violations({ id, 'a/b': 'z' }), [{ path: '/a~1b', message: /: \["x","y"\]$/ }])
  t.match(violations({ id, 'a/b': 'x', surplus: 1 }), [
    { path: '/surplus', message: /5 characters/ },
    { path: '/surplus' },
    { path: '/surplus', message: 'is not known' },
  ])
  t.end()
})

t.test('an input is judged as it is: defaults and conversions are not the gateway’s', (t) => {
  const input = { type: 'object', properties: { n: { type: 'integer', default: 5 } } }
  const { types } = parseCatalog({ types: { order: { steps: ['a'], input } } })
  const value = {}
  t.strictSame(types.get('order')?.violations(value), [])
  t.strictSame(value, {})
  t.match(types.get('order')?.violations({ n: '5' }), [{ path: '/n', message: 'must be integer' }])
  t.end()
})

t.test('two types may have schemas of the same name', (t) => {
  const x = { $id: 'https://example.com/input', type: 'string' }
  const y = { $id: 'https://example.com/input', type: 'integer' }
  const { types } = parseCatalog({ types: { x: { steps: ['a'], input: x }, y: { steps: ['a'], input: y } } })
  t.strictSame(types.get('x')?.violations('text'), [])
  t.strictSame(types.get('y')?.violations(1), [])
  t.end()
})

t.test('a schema may be a mere yes or no', (t) => {
  const { types } = parseCatalog({ types: { no: { steps: ['a'], input: false } } })
  t.equal(types.get('no')?.violations(null).length, 1)
  t.end()
})

t.test('a file that cannot be read says so in one line', (t) => {
  const dir = mkdtempSync(join(tmpdir(), 'quartet-catalog-'))
  t.teardown(() => rm(dir, { recursive: true }))
  const path = join(dir, 'types.json')
  const missing = `QUARTET_CONFIG: ENOENT: no such file or directory, open '${path}'`
  t.equal(
    refusalOf(() => readCatalog(path)),
    missing,
  )
  for (const text of ['', '{', '{\n  "types": {\n    oops\n  }\n}\n', '{"types":{}}']) {
    writeFileSync(path, text)
    t.match(
      refusalOf(() => readCatalog(path)),
      /^[^\r\n]+types\.json: [^\r\n]+$/,
    )
  }
  t.end()
})

/** What a catalogue is refused with. */
function refusalOf(read: () => unknown): string {
  try {
    read()
  } catch (error) {
    if (error instanceof CatalogError) return error.message
    throw error
  }
  return 'not refused'
}

t.test('the schemas that judge requests are valid ones themselves', (t) => {
  const ajv = createAjv()
  const schemas = Object.entries({ ...messages, stepSchema }).filter(([name]) => name.endsWith('Schema'))
  t.ok(schemas.length > 1)
  for (const [name, schema] of schemas) {
    t.equal(ajv.validateSchema(schema as object), true, `${name}: ${ajv.errorsText()}`)
  }
  t.equal(ajv.validateSchema({ type: 'strange' }), false)
  t.end()
})
