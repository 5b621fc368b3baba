import { readFile } from 'node:fs/promises'
import t from 'tap'
import { ReplicationError } from '../src/store/redis/replicate.ts'
import { Problem, problemObject, problems, toProblem, type ProblemCode } from '../src/errors.ts'

const codes = Object.keys(problems) as ProblemCode[]

/** The rows of docs/PROTOCOL.md "Problems". */
async function documented(): Promise<string[]> {
  const text = await readFile('docs/PROTOCOL.md', 'utf8')
  const section = text.split(/^## /m).find((part) => part.startsWith('Problems\n')) ?? ''
  return section.split('\n').filter((line) => line.startsWith('| `'))
}

t.test('the table of problems in the contract is that of the code, row by row', async (t) => {
  const rows = codes.map((code) => `| \`${code}\` | ${problems[code].status} | ${problems[code].title} |`)
  t.strictSame(await documented(), rows)
})

t.test('every problem has a type, a title, a status and a code', async (t) => {
  for (const code of codes) {
    const expected = { type: `urn:quartet:problem:${code}`, ...problems[code], code }
    t.match(code, /^[a-z]+(_[a-z]+)*$/)
    t.ok(Number.isInteger(expected.status) && expected.status >= 400 && expected.status < 600)
    t.strictSame(problemObject(code), {
      type: expected.type,
      title: expected.title,
      status: expected.status,
      code,
    })
    t.strictSame(JSON.parse(JSON.stringify(new Problem(code))), { ...problemObject(code) })
    t.equal(new Problem(code).status, expected.status)
  }
  t.equal(new Set(codes.map((code) => problems[code].title)).size, codes.length, 'no title twice')
})

t.test('a problem shows its detail and its violations, and never its cause', async (t) => {
  const errors = [{ path: '/input', message: 'is required' }]
  const problem = new Problem('invalid', '/input is required', { errors, cause: new Error('secret') })
  t.strictSame(JSON.parse(JSON.stringify(problem)), {
    ...problemObject('invalid'),
    detail: '/input is required',
    errors,
  })
})

t.test('a Redis that is away, full or not itself is told from a mistake of ours', async (t) => {
  const reply = (message: string) => Object.assign(new Error(message), { name: 'ReplyError' })
  const failures = [
    new Error('Connection is closed.'),
    new Error("Stream isn't writeable and enableOfflineQueue options is false"),
    new Error('Command timed out'),
    Object.assign(new Error('connect ECONNREFUSED'), { code: 'ECONNREFUSED' }),
    reply('OOM command not allowed'),
    reply('LOADING Redis is loading the dataset in memory'),
    new Error('Too many Cluster redirections. Last error: Error: Connection is closed.'),
    new ReplicationError('Expected 1 replicas to confirm a write, got 0'),
    Object.assign(new Error('MOVED 10249 127.0.0.1:38493'), { name: 'SimpleError' }),
    reply('CLUSTERDOWN The cluster is down'),
    reply('READONLY You cannot write against a read only replica'),
  ]
  for (const failure of failures) {
    const { code, extras } = toProblem(failure)
    t.equal(code, 'store_unavailable', failure.message)
    t.ok((extras.retryAfterS ?? 0) > 0)
  }
  for (const mistake of [
    reply('ERR wrong number of arguments'),
    new TypeError('x is not a function'),
    'text',
    null,
  ])
    t.equal(toProblem(mistake).code, 'internal')
})

t.test('what the gateway did not foresee says nothing of itself', async (t) => {
  const { message, code } = toProblem(new Error('password=1234'))
  t.strictSame([message, code], [problems.internal.title, 'internal'])
  t.notMatch(JSON.stringify(toProblem(new Error('password=1234'))), '1234')
})
