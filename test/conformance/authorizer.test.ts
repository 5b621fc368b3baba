import type { IncomingMessage } from 'node:http'
import t, { type Test } from 'tap'
import type { TestGateway } from '../gateway.ts'
import { serve } from '../issuer.ts'
import { startKeyedGateway } from '../keys.ts'
import { createInbox, exchange, get, isProblem, openSocket, submit } from './clients.ts'

/* docs/PROTOCOL.md "Who may do what": a service of the operator's own that says who somebody is. */

const types = { echo: { steps: ['echo'] }, idle: { steps: ['idle'] } }
const everything = ['jobs:write', 'jobs:read', 'jobs:cancel', 'admin']

interface Answer {
  status?: number
  headers?: Record<string, string>
  body?: unknown
}

/** A gateway that asks, and an authorizer that answers as the test says. */
async function start(t: Test, answer: (asked: IncomingMessage) => Answer | null, auth = 'authorizer') {
  const asked = createInbox<IncomingMessage>()
  let count = 0
  const url = await serve(t, (request, response) => {
    count++
    asked.push(request)
    const given = answer(request)
    if (given === null) return // it hangs
    const { status = 200, headers = {}, body = { tenant: 'acme', scopes: everything } } = given
    response.writeHead(status, headers).end(typeof body === 'string' ? body : JSON.stringify(body))
  })
  const env = { QUARTET_AUTH: auth, QUARTET_AUTHORIZER_URL: `${url}/check?for=quartet` }
  return { gateway: await startKeyedGateway(t, types, { env }), asked, count: () => count }
}

const cached = (seconds: number) => ({ 'cache-control': `private, max-age=${seconds}` })
const withHeaders = (gateway: TestGateway, headers: Record<string, string>): TestGateway => ({
  ...gateway,
  headers,
  post: (body, more) => gateway.post(body, { ...headers, ...more }),
})

t.test(
  'it is told the method, the path and the headers, but for those of the connection and the body',
  async (t) => {
    const { gateway, asked } = await start(t, () => ({}))
    const body = '{"type":"idle","input":"a secret"}'
    const lines = [
      'host: example.com',
      'connection: close, x-private',
      'x-private: 1',
      'cookie: session=1',
      'authorization: Basic YTpi',
      'x-forwarded-for: 192.0.2.1',
      'x-forwarded-method: GET',
      'x_forwarded_uri: /livez',
      'content-type: application/json',
      `content-length: ${body.length}`,
      'if-none-match: *',
      'accept: application/json',
      'accept-encoding: gzip',
      'te: trailers',
      'proxy-authorization: Basic YTpi',
      'idempotency-key: k',
    ]
    const answer = await exchange(
      gateway.url,
      `POST /jobs?token=qt_x HTTP/1.1\r\n${lines.join('\r\n')}\r\n\r\n${body}`,
    )
    t.match(answer, /^HTTP\/1\.1 202 /)
    const { method, url, headers } = await asked.next()
    t.same([method, url], ['GET', '/check?for=quartet'])
    const { host, connection: _, ...told } = headers
    t.same(told, {
      cookie: 'session=1',
      authorization: 'Basic YTpi',
      'x-forwarded-for': '192.0.2.1',
      'x-forwarded-method': 'POST',
      'x-forwarded-uri': '/jobs',
      accept: 'application/json',
      'idempotency-key': 'k',
    })
    t.match(host, /^127\.0\.0\.1:/)
  },
)

t.test('the path is the one that is served, however it is written', async (t) => {
  const { gateway, asked } = await start(t, () => ({}))
  const id = '0199a1b2-0000-7000-8000-000000000000'
  for (const [path, told] of [
    [`/jobs/${id}/events?after=1`, `/jobs/${id}/events`],
    [`/%6aobs/${id}`, `/jobs/${id}`],
    ['/jobs/a%2Fb%3fc', '/jobs/a%2Fb%3Fc'],
    ['/%6detrics', '/metrics'],
  ] as const) {
    await get(gateway, path)
    t.equal((await asked.next()).headers['x-forwarded-uri'], told, path)
  }
})

t.test('whom it lets in has the tenant, the scopes and the types that it says', async (t) => {
  const { gateway } = await start(t, ({ headers: { 'x-who': who } }) => ({
    body:
      who === 'ada'
        ? { tenant: 'acme', scopes: everything, key_id: 'ada' }
        : { tenant: 'umbrella', scopes: ['jobs:write', 'x'], types: ['echo'] },
  }))
  const [ada, bob] = [withHeaders(gateway, { 'x-who': 'ada' }), withHeaders(gateway, { 'x-who': 'bob' })]
  const { links } = await submit(ada, { type: 'idle' })
  t.equal((await get(ada, links.self)).status, 200)
  await isProblem(t, await get(bob, links.self), 'missing_scope')
  await isProblem(t, await bob.post({ type: 'idle' }), 'type_not_allowed')
  t.equal((await bob.post({ type: 'echo' })).status, 202)
  t.equal((await get(gateway, '/livez')).status, 200, 'and is not asked where everybody is let in')
})

t.test('its 401 and 403 are passed on', async (t) => {
  const { gateway } = await start(t, ({ headers: { 'x-status': status } }) => ({
    status: Number(status),
    headers: { 'www-authenticate': 'Basic realm="acme"' },
    body: 'a secret of the authorizer',
  }))
  for (const [status, code] of [
    ['401', 'unauthorized'],
    ['403', 'forbidden'],
  ] as const) {
    const response = await get(gateway, '/jobs', { 'x-status': status })
    if (status === '401') t.equal(response.headers.get('www-authenticate'), 'Basic realm="acme"')
    t.notMatch(JSON.stringify(await isProblem(t, response, code)), 'secret')
  }
})

t.test('a WebSocket is asked about when it says who it is', async (t) => {
  const { gateway, asked } = await start(t, ({ headers: { authorization } }) => ({
    status: authorization === 'Bearer good' ? 200 : authorization ? 403 : 401,
  }))
  await openSocket(t, gateway.url, { token: 'good', headers: { authorization: 'Bearer bad' } })
  const { method, headers } = await asked.next()
  t.match(
    { method, ...headers },
    { 'x-forwarded-uri': '/ws', 'x-forwarded-method': 'GET', authorization: 'Bearer good' },
  )
  t.notOk(Object.keys(headers).some((name) => name.startsWith('sec-websocket')))
  for (const [token, code] of [
    ['bad', 4403],
    [undefined, 4401],
    ['good\r\nx-admin: 1', 4401],
  ] as const) {
    const { send, closed } = await openSocket(t, gateway.url, { init: false })
    send({ op: 'init', ...(token && { token }) })
    t.equal(await closed, code)
  }
})

t.test('what it says holds for as long as it says, for the very same request', async (t) => {
  const { gateway, count } = await start(t, () => ({ headers: cached(60) }))
  const ask = (path: string, headers: Record<string, string> = {}) => get(gateway, path, headers)
  const costs = async (n: number, what: string, task: () => Promise<Response>) => {
    const before = count()
    await (await task()).text()
    t.equal(count() - before, n, what)
  }
  await costs(1, 'the first', () => ask('/jobs', { cookie: 'a' }))
  await costs(0, 'the same', () => ask('/jobs', { cookie: 'a' }))
  await costs(0, 'another query', () => ask('/jobs?limit=1', { cookie: 'a' }))
  await costs(1, 'another cookie', () => ask('/jobs', { cookie: 'b' }))
  await costs(1, 'one header more', () => ask('/jobs', { cookie: 'a', 'x-team': 'x' }))
  await costs(1, 'none', () => ask('/jobs'))
  await costs(1, 'another path', () => ask('/metrics', { cookie: 'a' }))
  await costs(1, 'another method', () =>
    fetch(`${gateway.url}/jobs`, { method: 'HEAD', headers: { cookie: 'a' } }),
  )
  await costs(0, 'and the first again', () => ask('/jobs', { cookie: 'a' }))
})

t.test('nothing is kept of what it does not promise', async (t) => {
  const replies = [
    undefined,
    'no-store',
    'no-cache, max-age=60',
    'max-age=0',
    'max-age=x',
    'private',
    'x-max-age=60',
    'no-store, max-age=60',
  ]
  let reply: string | undefined
  const { gateway, count } = await start(t, () => ({
    headers: reply === undefined ? {} : { 'cache-control': reply },
  }))
  for (reply of replies) {
    const before = count()
    for (let n = 0; n < 3; n++) await (await get(gateway, '/jobs')).text()
    t.equal(count() - before, 3, reply ?? 'no Cache-Control')
  }
})

t.test('what has been on its way for long holds for less', async (t) => {
  const { gateway, count } = await start(t, () => ({ headers: { ...cached(60), age: '60' } }))
  for (let n = 0; n < 3; n++) await (await get(gateway, '/jobs')).text()
  t.equal(count(), 3)
})

t.test('it may say what it looked at, and then holds for all that are the same in that', async (t) => {
  const varyBy = ['Authorization', 'path']
  const { gateway, count } = await start(t, ({ headers: { authorization } }) => ({
    headers: cached(60),
    body: { tenant: authorization === 'Bearer a' ? 'acme' : 'umbrella', scopes: everything, vary_by: varyBy },
  }))
  const a = withHeaders(gateway, { authorization: 'Bearer a' })
  const b = withHeaders(gateway, { authorization: 'Bearer b' })
  const job = await submit(a, { type: 'idle' })
  t.equal(count(), 1)
  const more = await a.post({ type: 'idle' }, { 'x-request-id': '2', 'idempotency-key': 'k' })
  t.equal(more.status, 202)
  t.equal(count(), 1, 'whatever else is in the request')
  t.equal((await get(a, '/jobs', { 'x-request-id': '3' })).status, 200)
  t.equal(count(), 1, 'with another method')
  t.equal((await get(a, job.links.self)).status, 200)
  t.equal(count(), 2, 'but not for another path')
  await isProblem(t, await get(b, job.links.self), 'not_found')
  t.equal((await get(gateway, '/jobs')).status, 200)
  t.equal(count(), 4, 'nor for another credential, or none')
})

t.test('a refusal is kept like anything else', async (t) => {
  const { gateway, count } = await start(t, ({ headers: { cookie } }) => ({
    status: cookie ? 200 : 401,
    headers: cached(60),
  }))
  for (let n = 0; n < 3; n++) await isProblem(t, await get(gateway, '/jobs'), 'unauthorized')
  t.equal(count(), 1)
  t.equal((await get(gateway, '/jobs', { cookie: 'a' })).status, 200, 'of that request')
})

t.test('where it cannot be asked nobody is let in, and it is left in peace for a while', async (t) => {
  let isWell = false
  const { gateway, count } = await start(t, () => (isWell ? {} : { status: 500 }))
  const ask = () => get(gateway, '/jobs')
  let answer = await ask()
  for (let n = 0; n < 10; n++) {
    t.match(answer.headers.get('retry-after'), /^[1-9]\d*$/)
    await isProblem(t, answer, 'authentication_unavailable')
    answer = await ask()
  }
  const asked = count()
  t.ok(asked < 10)
  await isProblem(t, await ask(), 'authentication_unavailable')
  t.equal(count(), asked, 'nobody asks')
  const { send, closed } = await openSocket(t, gateway.url, { init: false })
  send({ op: 'init', token: 'x' })
  t.equal(await closed, 4503)

  isWell = true
  while ((await ask()).status !== 200) await new Promise((resolve) => setTimeout(resolve, 100))
  t.match(await (await get(gateway, '/metrics')).text(), /quartet_authorizer_circuit_open 0\n/)
})

t.test('answers that cannot be understood let nobody in', async (t) => {
  const bodies: readonly unknown[] = [
    '',
    'ok',
    '[]',
    'null',
    '{"tenant":"acme"}',
    '{"scopes":["admin"]}',
    { tenant: '', scopes: [] },
    { tenant: 'a:b', scopes: [] },
    { tenant: 'acme', scopes: 'admin' },
    { tenant: 'acme', scopes: [1] },
    { tenant: 'acme', scopes: [], types: 'echo' },
    { tenant: 'acme', scopes: [], key_id: 'a b' },
    { tenant: 'acme', scopes: [], vary_by: [] },
    { tenant: 'acme', scopes: everything, padding: 'x'.repeat(70_000) },
  ]
  for (const body of bodies) {
    const { gateway } = await start(t, () => ({ body }))
    await isProblem(t, await get(gateway, '/jobs'), 'authentication_unavailable')
  }
  for (const status of [302, 304, 404, 431, 500]) {
    const { gateway } = await start(t, () => ({ status, headers: { location: '/elsewhere' }, body: '' }))
    await isProblem(t, await get(gateway, '/jobs'), 'authentication_unavailable')
  }
})

t.test('what one sends does not shut the others out', async (t) => {
  const { gateway } = await start(t, ({ headers: { 'x-odd': odd } }) => (odd ? { status: 431 } : {}))
  for (let n = 0; n < 20; n++)
    await isProblem(t, await get(gateway, '/jobs', { 'x-odd': '1' }), 'authentication_unavailable')
  t.equal((await get(gateway, '/jobs')).status, 200)
})

t.test('one that hangs is not waited for', async (t) => {
  const { gateway } = await start(t, () => null)
  await isProblem(t, await get(gateway, '/jobs'), 'authentication_unavailable')
})

t.test('keys and job tokens are judged here, all else by it', async (t) => {
  const { gateway, count } = await start(t, () => ({ status: 401 }), 'keys,authorizer')
  const owner = await gateway.as()
  const { job_id, links } = await submit(owner, { type: 'idle' })
  const given = await fetch(`${gateway.url}/jobs/${job_id}/tokens`, {
    method: 'POST',
    headers: owner.headers,
  })
  const { token } = (await given.json()) as { token: string }
  t.equal((await get(gateway, `${links.self}?token=${token}`)).status, 200)
  await isProblem(t, await get(gateway, '/jobs', { authorization: 'Bearer qk_x' }), 'unauthorized')
  t.equal(count(), 0)
  await isProblem(t, await get(gateway, '/jobs', { authorization: 'Bearer x' }), 'unauthorized')
  t.equal(count(), 1)
})
