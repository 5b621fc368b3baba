import { equal } from 'node:assert'
import * as fc from 'fast-check'
import t from 'tap'
import { parseCatalog } from '../src/catalog.ts'
import { createLinearEngine } from '../src/linear-pattern.ts'
import { runs } from './properties/runs.ts'
import { startGateway } from './gateway.ts'

const judge = (input: object) => {
  const type = parseCatalog({ types: { judged: { steps: ['judged'], input } } }).types.get('judged')
  return type?.violations ?? (() => [])
}

/** What ECMAScript and RE2 may read in different ways, next to what they do not. */
const atom = fc.constantFrom(
  ...String.raw`a b . \s \S \d \D \w \W [^] [] [ab] [^a] [[] [[a] [^[] [[]a [.] [\s] [^\s] [\S] [\s\S] [^\S] [\b] [a-]`.split(
    ' ',
  ),
  ...String.raw`[\w-] [a\-b] [\]] [\^a] [a^] \t \v \0 \cJ \x41 \u2028 \u{1f600} \ud83d\ude00 \/ \. \$ \b \B ^ $`.split(
    ' ',
  ),
  ...String.raw`\p{L} \P{L} \p{Lu} [\p{L}\d] é 😀 [😀-😂] [\ud83d\ude00]`.split(' '),
)
const pattern = fc.letrec<{ pattern: string }>((tie) => ({
  pattern: fc.oneof(
    { maxDepth: 3, withCrossShrink: true },
    atom,
    fc
      .tuple(tie('pattern'), fc.constantFrom('*', '+', '?', '{2}', '{1,}', '{0,3}', '*?', '+?'))
      .map(([each, many]) => `(?:${each})${many}`),
    fc.tuple(tie('pattern'), tie('pattern')).map(([one, other]) => one + other),
    fc.tuple(tie('pattern'), tie('pattern')).map(([one, other]) => `(?:${one}|${other})`),
    tie('pattern').map((each) => `(${each})`),
    tie('pattern').map((each) => `^${each}$`),
  ),
})).pattern
const character = fc.constantFrom(
  ...Array.from(
    'abA0_-.[]^$/\\ éßΩ😀😂\b\0\n\r\t\v\f\u00a0\u0085\u1680\u180e\u200b\u2028\u2029\u3000\ufeff\uffff',
  ),
)
const text = fc.string({ unit: character, maxLength: 8 })

t.test('a pattern means what it does in ECMAScript, on an engine that never goes back', (t) => {
  const engine = createLinearEngine({ spent: 0 })
  const property = fc.property(pattern, fc.array(text, { minLength: 1, maxLength: 10 }), (pattern, texts) => {
    const [expected, linear] = [new RegExp(pattern, 'u'), engine(pattern, 'u')]
    for (const each of texts) equal(linear.test(each), expected.test(each), JSON.stringify([pattern, each]))
  })
  fc.assert(property, runs(3_000))
  t.pass()
  t.end()
})

t.test('a pattern that needs backtracking stops the start, and is named', (t) => {
  for (const pattern of [
    '(?=a)b',
    '(?!a)b',
    '(?<=a)b',
    '(?<!a)b',
    '(a)\\1',
    '(?<n>a)\\k<n>',
    'a{1001}',
    '\\p{sc=Greek}',
  ])
    t.throws(
      () => judge({ properties: { a: { pattern } } }),
      { message: /^types\.judged\.input: Expected a pattern that takes linear time \(RE2/ },
      pattern,
    )
  for (const pattern of ['[', '(?P<n>a)', '\\Aa', 'a++'])
    t.throws(() => judge({ pattern }), { message: /^types\.judged\.input: Invalid regular expression/ })
  t.throws(() => judge({ patternProperties: { '(?=a)': true } }), /linear time/)
  t.end()
})

t.test('what patterns may cost is counted for each input, and all of them together', (t) => {
  const budget = { spent: 0 }
  const small = createLinearEngine(budget)('^(a+)+$', 'u')
  t.equal(small.test(`${'a'.repeat(1_000_000)}!`), false)
  t.ok(budget.spent < 20_000_000, 'a whole body at once')
  const large = createLinearEngine(budget)('a.{900}[^ab]$', 'u')
  t.throws(() => large.test('ab'.repeat(500_000)), { message: /^Expected at most/ })
  budget.spent = 0
  t.equal(large.test('ab'.repeat(10_000)), false)

  const violations = judge({ items: { pattern: 'a.{900}[^ab]$' }, maxItems: 20_000 })
  const tooMuch = [{ path: '', message: 'is too long for the patterns of its type' }]
  t.strictSame(violations(['ab'.repeat(500_000)]), tooMuch)
  t.strictSame(
    violations(Array.from({ length: 100 }, () => `${'a'.repeat(1_000)}!`)),
    tooMuch,
    'many short ones',
  )
  t.strictSame(violations([`${'a'.repeat(1_000)}!`]), [], 'and what came before is forgotten')
  t.end()
})

t.test('where items must be unique, they are told apart in one pass', (t) => {
  const violations = judge({ uniqueItems: true })
  const items = Array.from({ length: 40_000 }, (_, index) => ({ index }))
  t.strictSame(violations(items), [])
  t.match(violations([{ a: 1, b: [2] }, '1', { b: [2], a: 1 }]), [
    { path: '', message: 'must NOT have duplicate items (items ## 0 and 2 are identical)' },
  ])
  for (const items of [
    [1, '1'],
    [null, 'null'],
    [[1, 2], ['1,2']],
    [{ a: 1 }, { a: '1' }, ['a', 1]],
    [{}, []],
  ])
    t.strictSame(violations(items), [], JSON.stringify(items))
  for (const items of [
    [0, -0],
    [1, 1.0],
    ['é', '\u00e9'],
    [[], []],
    [{ a: {} }, { a: {} }],
  ])
    t.equal(violations(items).length, 1, JSON.stringify(items))
  t.strictSame(judge({ uniqueItems: false })([1, 1]), [])
  t.end()
})

t.test('a URL is judged in one pass, and as before', (t) => {
  const violations = judge({ format: 'url' })
  t.equal(violations(`http://a-${'::'.repeat(400_000)}!`).length, 1)
  t.equal(violations(`http://${'a@a.aa/'.repeat(100_000)} `).length, 1)
  for (const url of [
    'http://example.com',
    'https://u:p@example.com:80/a?b',
    'ftp://a:b:c@d@example.com',
    'http://8.8.8.8',
  ])
    t.strictSame(violations(url), [], url)
  for (const url of [
    'http://a b.example',
    'mailto:a@b.c',
    'http://10.0.0.1',
    'http://u:@',
    'http:// @example.com',
  ])
    t.equal(violations(url).length, 1, url)
  t.end()
})

t.test('a schema that refers to itself refuses what is deeper than can be judged', (t) => {
  const nest = (depth: number) => JSON.parse('['.repeat(depth) + ']'.repeat(depth)) as unknown
  const violations = judge({ type: 'array', items: { $ref: '#' } })
  t.strictSame(violations(nest(500)), [])
  t.strictSame(violations(nest(200_000)), [{ path: '', message: 'is nested too deeply' }])
  t.strictSame(judge({ uniqueItems: true })([nest(200_000)]), [{ path: '', message: 'is nested too deeply' }])
  t.end()
})

t.test(
  'an input that would take a backtracking engine for ever is answered, and holds up nobody',
  async (t) => {
    const input = { pattern: '^(a+)+$', type: 'string' }
    const gateway = await startGateway(t, { hostile: { steps: ['hostile'], input } })
    const hostile = Array.from({ length: 20 }, () =>
      gateway.post({ type: 'hostile', input: `${'a'.repeat(900_000)}!` }),
    )
    t.equal((await fetch(`${gateway.url}/livez`)).status, 200)
    for (const answer of await Promise.all(hostile)) {
      t.equal(answer.status, 422)
      t.match(await answer.json(), { errors: [{ path: '/input', message: 'must match pattern "^(a+)+$"' }] })
    }
    t.equal((await gateway.post({ type: 'hostile', input: 'a'.repeat(900_000) })).status, 202)
  },
)
