import t from 'tap'
import type { Scope } from '../../src/access/identity.ts'
import { createLog } from '../../src/log.ts'
import { startGateway } from '../gateway.ts'
import { startKeyedGateway, withKey } from '../keys.ts'
import {
  cancel,
  createInbox,
  ended,
  exchange,
  get,
  isProblem,
  jobIn,
  openSocket,
  putCallback,
  startReceiver,
  submit,
} from './clients.ts'

/* docs/PROTOCOL.md "Who may do what". */

const gateway = await startKeyedGateway(t, {
  echo: { steps: ['echo'], attempts: 1 },
  idle: { steps: ['idle'] },
})
await gateway.work('echo', async (job) => job.data as unknown)
const everything = await gateway.as()
const unknownId = '0199a1b2-0000-7000-8000-000000000000'

/** Every route, by what it asks for. */
const routes: readonly [method: string, path: string, scopes: readonly Scope[]][] = [
  ['POST', '/jobs', ['jobs:write']],
  ['POST', '/jobs/batch', ['jobs:write']],
  ['GET', '/jobs', ['jobs:read']],
  ['GET', `/jobs/${unknownId}`, ['jobs:read']],
  ['HEAD', `/jobs/${unknownId}`, ['jobs:read']],
  ['GET', `/jobs/${unknownId}/events`, ['jobs:read']],
  ['GET', `/jobs/${unknownId}/result`, ['jobs:read']],
  ['GET', `/jobs/${unknownId}/deliveries`, ['jobs:read']],
  ['POST', `/jobs/${unknownId}/cancel`, ['jobs:cancel']],
  ['POST', `/jobs/${unknownId}/tokens`, ['jobs:read']],
  ['PUT', `/jobs/${unknownId}/callback`, ['jobs:write', 'jobs:read']],
  ['POST', `/jobs/${unknownId}/deliveries/1/redeliver`, ['jobs:write']],
  ['GET', '/deliveries?status=dead', ['jobs:read']],
  ['POST', '/deliveries/redeliver', ['jobs:write']],
  ['GET', '/metrics', ['admin']],
]
const all: readonly Scope[] = ['jobs:write', 'jobs:read', 'jobs:cancel', 'admin']

const call = (method: string, path: string, headers: Record<string, string> = {}) =>
  fetch(gateway.url + path, {
    method,
    headers: {
      ...headers,
      ...(method === 'POST' || method === 'PUT' ? { 'content-type': 'application/json' } : {}),
    },
    ...(method === 'POST' || method === 'PUT' ? { body: '{}' } : {}),
  })

t.test(
  'every route but the health of the node and what describes the API wants to know who asks',
  async (t) => {
    for (const [method, path] of routes) {
      const response = await call(method, path)
      t.equal(response.status, 401, `${method} ${path}`)
      t.equal(response.headers.get('www-authenticate'), 'Bearer')
      if (method !== 'HEAD') t.match(await response.json(), { code: 'unauthorized', status: 401 })
    }
    for (const path of ['/livez', '/readyz', '/openapi.json', '/asyncapi.json', '/docs']) {
      t.equal((await get(gateway, path)).status, 200)
    }
    await isProblem(t, await get(gateway, '/nowhere'), 'no_such_route')
  },
)

t.test('a route lets in whoever has all its scopes, and names the one that is missing', async (t) => {
  for (const [method, path, wanted] of routes) {
    const { headers } = await gateway.as({ scopes: wanted })
    t.notOk([401, 403].includes((await call(method, path, headers)).status), `${method} ${path}`)
    for (const missing of wanted) {
      const others = await gateway.as({ scopes: all.filter((scope) => scope !== missing) })
      const response = await call(method, path, others.headers)
      t.equal(response.status, 403, `${method} ${path} without ${missing}`)
      t.equal(
        response.headers.get('www-authenticate'),
        `Bearer error="insufficient_scope", scope="${missing}"`,
      )
      if (method === 'HEAD') continue
      t.match(await response.json(), { code: 'missing_scope', detail: `Expected the scope ${missing}` })
    }
  }
})

t.test('a key that is none, that never was, or whose secret is wrong gets the same answer', async (t) => {
  const { id, key } = await gateway.createKey()
  const [last = ''] = key.slice(-5)
  const wrong = [
    `qk_${id}_${'A'.repeat(43)}`,
    `${key.slice(0, -5)}${last === 'A' ? 'B' : 'A'}${key.slice(-4)}`,
    key.slice(0, -1),
    `${key}A`,
    key.replace(id, '0'.repeat(16)),
    key.toUpperCase(),
    'qk_',
    `qk_revocations_${'A'.repeat(43)}`,
  ]
  const answers = await Promise.all(
    wrong.map(async (each) => {
      const response = await get(withKey(gateway, each), '/jobs')
      t.equal(response.headers.get('www-authenticate'), 'Bearer error="invalid_token"', each)
      return response.text()
    }),
  )
  const [first] = answers
  t.match(first, 'The API key is unknown, was revoked or has expired')
  // The one in capitals is of no kind at all.
  t.equal(answers.filter((answer) => answer === first).length, wrong.length - 1)
  t.equal((await get(withKey(gateway, key), '/jobs')).status, 200)
})

t.test('credentials of no kind that is known are refused', async (t) => {
  for (const authorization of [
    'Bearer',
    'Bearer ',
    'Basic YTpi',
    'Bearer x',
    'Bearer a b',
    `Bearer ${'x'.repeat(9_000)}`,
    'qk_x',
  ]) {
    await isProblem(t, await get(gateway, '/jobs', { authorization }), 'unauthorized')
  }
  const { key } = await gateway.createKey()
  for (const authorization of [`bearer ${key}`, `Bearer   ${key} `])
    t.equal((await get(gateway, '/jobs', { authorization })).status, 200)
})

t.test('a key is no part of a URL', async (t) => {
  const { key } = await gateway.createKey()
  const job = await submit(everything, { type: 'idle' })
  const { detail } = await isProblem(t, await get(gateway, `${job.links.self}?token=${key}`), 'unauthorized')
  t.match(detail, /keys belong into the header/)
  await isProblem(t, await get(gateway, `${job.links.self}?access_token=${key}`), 'unauthorized')
})

t.test('whoever is refused is refused before the body is read', async (t) => {
  const head = 'POST /jobs HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nconnection: close\r\n'
  const answer = await exchange(gateway.url, `${head}content-length: 1000\r\n\r\n{`)
  t.match(answer, /^HTTP\/1\.1 401 /)
})

t.test('a key for some types submits those, and hears of no others', async (t) => {
  const some = await gateway.as({ types: ['echo'] })
  t.equal((await some.post({ type: 'echo' })).status, 202)
  for (const type of ['idle', 'no such type']) {
    const { detail } = await isProblem(t, await some.post({ type }), 'type_not_allowed')
    t.equal(detail, 'Expected one of echo')
  }
  const job = await submit(everything, { type: 'idle' })
  t.equal((await get(some, job.links.self)).status, 200, 'what others of the tenant submitted can be read')
  const { send, frame } = await openSocket(t, gateway.url, { token: tokenOf(some.headers) })
  send({ op: 'submit', ref: 1, job: { type: 'idle' } })
  t.match(await frame(), { op: 'error', ref: 1, problem: { code: 'type_not_allowed', status: 403 } })
})

t.test('a key ends at its time', async (t) => {
  const expired = await gateway.as({ expiresAt: Date.now() - 1 })
  await isProblem(t, await get(expired, '/jobs'), 'unauthorized')
  const later = await gateway.as({ expiresAt: Date.now() + 60_000 })
  t.equal((await get(later, '/jobs')).status, 200)
})

t.test('a key that only writes hears of its own submission', async (t) => {
  const writer = await gateway.as({ scopes: ['jobs:write'] })
  const job = await jobIn(await writer.post({ type: 'echo', input: 1 }, { prefer: 'wait=20' }))
  t.match(job, { status: 'completed', result: 1 })
  const stream = await writer.post({ type: 'echo' }, { accept: 'application/x-ndjson' })
  t.match(await stream.text(), /"job\.completed"/)
  await isProblem(t, await get(writer, job.links.self), 'missing_scope')
})

t.test('a WebSocket says who it is in init, or in the headers of its handshake', async (t) => {
  const { key } = await gateway.createKey()
  await openSocket(t, gateway.url, { token: key })
  await openSocket(t, gateway.url, { headers: { authorization: `Bearer ${key}` } })
  const wrong = { authorization: 'Bearer qk_wrong' }
  await openSocket(t, gateway.url, { token: key, headers: wrong })
  for (const options of [{}, { headers: wrong }]) {
    const { send, closed } = await openSocket(t, gateway.url, { ...options, init: false })
    send({ op: 'init' })
    t.equal(await closed, 4401)
  }
  const { send, closed } = await openSocket(t, gateway.url, { init: false })
  send({ op: 'init', token: `${key.slice(0, -1)}!` })
  send({ op: 'submit', ref: 1, job: { type: 'echo' } })
  t.equal(await closed, 4401)
})

t.test('on a WebSocket a missing scope is an error of the message', async (t) => {
  const job = await submit(everything, { type: 'idle' })
  const { job_id } = job
  const messages: readonly [Scope, object][] = [
    ['jobs:write', { op: 'submit', job: { type: 'idle' } }],
    ['jobs:read', { op: 'subscribe', job_id }],
    ['jobs:cancel', { op: 'cancel', job_id }],
  ]
  for (const [scope, message] of messages) {
    const { key } = await gateway.createKey({ scopes: all.filter((each) => each !== scope) })
    const { send, frame } = await openSocket(t, gateway.url, { token: key })
    send({ ...message, ref: scope })
    const problem = { code: 'missing_scope', status: 403, detail: `Expected the scope ${scope}` }
    t.match(await frame(), { op: 'error', ref: scope, problem })
    send({ op: 'ping' })
    t.match(await frame(), { op: 'pong' }, 'and the socket goes on')
  }
})

t.test('with the scopes for it every mode works', async (t) => {
  const receiver = await startReceiver(t)
  const job = await submit(everything, { type: 'echo', callback_url: receiver.url })
  t.match((await ended(everything, job.job_id)).at(-1), { type: 'job.completed' })
  t.match((await receiver.next()).body, /"job\.completed"/)
  t.equal((await putCallback(everything, job.job_id, { callback_url: receiver.url })).status, 200)
  const idle = await submit(everything, { type: 'idle' })
  t.equal((await cancel(everything, idle.job_id)).status, 200)
})

t.test('who was kept out is counted, and only whoever may read the metrics sees it', async (t) => {
  await get(gateway, '/jobs')
  const metrics = await (await get(await gateway.as({ scopes: ['admin'] }), '/metrics')).text()
  for (const code of ['unauthorized', 'missing_scope', 'type_not_allowed'])
    t.match(metrics, new RegExp(`^quartet_problems_total\\{code="${code}"\\} [1-9]`, 'm'))
})

t.test(
  'where everybody is let in credentials are not looked at, and the log says that there are keys',
  async (t) => {
    const said = createInbox<string>()
    const destination = { write: (line: string) => said.push(line) }
    const open = await startGateway(
      t,
      { idle: { steps: ['idle'] } },
      {
        redis: gateway.redis,
        logger: createLog('warn', destination),
      },
    )
    t.match(await said.next(), 'without QUARTET_AUTH=keys nobody is asked for one')
    for (const headers of [{}, { authorization: 'Bearer qk_x' }, everything.headers] as Record<
      string,
      string
    >[]) {
      const job = await submit({ ...open, post: (body) => open.post(body, headers) }, { type: 'idle' })
      await isProblem(t, await get(everything, job.links.self), 'not_found')
      t.equal(
        (await get(open, `${job.links.self}?token=x`, headers)).status,
        200,
        'it is of the tenant default',
      )
    }
    const { send, frame } = await openSocket(t, open.url, { token: 'whatever' })
    send({ op: 'ping' })
    t.match(await frame(), { op: 'pong' })
  },
)

function tokenOf({ authorization = '' }: Readonly<Record<string, string>>): string {
  return authorization.slice('Bearer '.length)
}
