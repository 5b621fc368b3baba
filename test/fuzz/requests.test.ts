import t from 'tap'
import { requests, type Call } from './arbitraries.ts'
import { hugeBodies } from './corpus.ts'
import { fuzz, inputsFor, judge, startFuzzedGateway } from './fuzzed-gateway.ts'
import { createSender, headerOf, type RawAnswer, type RawRequest } from './raw-http.ts'

/** Requests that are under way at a time. */
const CROWD = 100

const { gateway, authorization, work, end } = await startFuzzedGateway(t)
await work('echo', async (job) => job.data as unknown)
await work('judged', async () => null)
const sender = createSender(gateway.url)
t.teardown(() => sender.close())
const plain = [
  ['Host', '127.0.0.1'],
  ['Authorization', authorization],
  ['Content-Type', 'application/json'],
] as const
const accepted = new Set<string>()
let inputs = 0

const call = (
  method: string,
  target: string,
  body: string | null = null,
  headers: RawRequest['headers'] = [],
) => sender.send({ method, target, headers: [...plain, ...headers], body })

/** Sends what may be hostile. */
async function attack(request: RawRequest): Promise<RawAnswer> {
  inputs++
  const answer = await sender.send(request)
  try {
    judge(answer)
  } catch (error) {
    const got = JSON.stringify({ ...answer, body: answer.body.slice(0, 500) })
    throw new Error(`${(error as Error).message}: ${got} to ${JSON.stringify(request).slice(0, 2_000)}`, {
      cause: error,
    })
  }
  const location = headerOf(answer, 'location')
  if (location !== undefined && answer.status === 202) accepted.add(location)
  return answer
}

/** A job of somebody who means no harm goes through. @returns what is told of it, but for what is of its own */
async function serve(): Promise<string> {
  const answer = await call('POST', '/jobs', '{"type":"echo","input":{"a":[1,"é"]}}', [['Prefer', 'wait=20']])
  const events = await call('GET', `${headerOf(answer, 'location')}/events`, null, [
    ['Accept', 'text/event-stream'],
  ])
  const all = [answer, events]
    .map(({ status, headers, body }) => JSON.stringify([status, headers, body]))
    .join('\n')
  return all
    .replace(/[\da-f]{8}-[\da-f]{4}-[47][\da-f]{3}-[89ab][\da-f]{3}-[\da-f]{12}/g, '<id>')
    .replace(/\d{4}-\d\d-\d\dT[\d:.]+Z|[A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} [\d:]+ GMT/g, '<time>')
}

const before = await serve()
const ids = await Promise.all(
  Array.from({ length: 3 }, async () => {
    const answer = await call('POST', '/jobs', '{"type":"echo"}', [['Prefer', 'wait=20']])
    return headerOf(answer, 'x-correlation-id') ?? ''
  }),
)

/** All that the gateway says it can be called for, but what describes it. */
async function readCalls(): Promise<Call[]> {
  const { body } = await call('GET', '/openapi.json')
  const { paths } = JSON.parse(body) as {
    paths: Record<string, Record<string, { parameters?: { in: string; name: string }[] }>>
  }
  return Object.entries(paths).flatMap(([path, item]) =>
    Object.entries(item).map(([method, { parameters = [] }]) => ({
      method: method.toUpperCase(),
      path,
      query: parameters.flatMap((each) => (each.in === 'query' ? [each.name] : [])),
    })),
  )
}
const calls = await readCalls()

t.test('what is huge or deep is answered, whichever route it is for', async (t) => {
  const routes = calls.filter(({ method }) => method === 'POST' || method === 'PUT')
  for (const { method, path } of routes) {
    const target = path.replace('{id}', ids[0] ?? '').replace('{seq}', '1')
    for (const body of hugeBodies) await attack({ method, target, headers: plain, body })
  }
  t.equal(await serve(), before)
})

t.test('whatever comes in whatever field, the answer is one of the contract', async (t) => {
  const size = { inputs: inputsFor('requests'), crowd: CROWD }
  let lists = 0
  await fuzz(requests(calls, ids, authorization), size, async (requests) => {
    await Promise.all(requests.map(attack))
    if (++lists % 100 === 0 && (await serve()) !== before)
      throw new Error('Expected others to be served as before')
  })
  t.ok(inputs >= inputsFor('requests'), `${inputs} requests`)
})

t.test('afterwards all are served as before, and what was accepted is there', async (t) => {
  t.equal(await serve(), before)
  const missing: string[] = []
  const waiting = [...accepted]
  t.ok(waiting.length > 0, `${waiting.length} jobs were accepted`)
  await Promise.all(
    Array.from({ length: CROWD }, async () => {
      for (let location = waiting.pop(); location !== undefined; location = waiting.pop()) {
        const { status } = await call('GET', location)
        if (status !== 200) missing.push(location)
      }
    }),
  )
  t.strictSame(missing, [])
  sender.close()
  await end()
})
