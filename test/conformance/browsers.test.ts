import { once } from 'node:events'
import type { IncomingMessage } from 'node:http'
import t, { type Test } from 'tap'
import { WebSocket } from 'ws'
import { startGateway, type TestGateway } from '../gateway.ts'
import { startKeyedGateway } from '../keys.ts'
import { exchange, get, isProblem, openSocket, submit } from './clients.ts'

/* What browsers are told, and which pages may ask: docs/PROTOCOL.md "Browsers". */

const types = { idle: { steps: ['idle'] } }
const shop = 'https://shop.example.com'
const gateway = await startKeyedGateway(t, types, {
  env: { QUARTET_CORS_ORIGINS: `${shop}, http://localhost:5173` },
})
const owner = await gateway.as()
const closed = await startGateway(t, types)

/** With an Origin, which fetch does not let one set. */
async function ask(
  { url, headers: known }: Pick<TestGateway, 'url' | 'headers'>,
  request: string,
  headers: Record<string, string>,
  body = '',
): Promise<{ status: number; headers: Headers; body: string }> {
  const all = { host: new URL(url).host, connection: 'close', ...known, ...headers }
  const lines = Object.entries(all).map(([name, value]) => `${name}: ${value}\r\n`)
  const answer = await exchange(url, `${request} HTTP/1.1\r\n${lines.join('')}\r\n${body}`)
  const [head = '', ...rest] = answer.split('\r\n\r\n')
  const [first = '', ...pairs] = head.split('\r\n')
  const entries = pairs.map((line): [string, string] => {
    const colon = line.indexOf(':')
    return [line.slice(0, colon), line.slice(colon + 1).trim()]
  })
  return { status: Number(first.split(' ')[1]), headers: new Headers(entries), body: rest.join('\r\n\r\n') }
}

function isSafe(t: Test, headers: Headers) {
  t.equal(headers.get('referrer-policy'), 'no-referrer')
  t.equal(headers.get('x-content-type-options'), 'nosniff')
  t.equal(headers.get('content-security-policy'), "default-src 'none';frame-ancestors 'none'")
  t.equal(headers.get('x-frame-options'), 'DENY')
}

t.test('every answer has the headers that keep a browser safe, also streams and problems', async (t) => {
  const { links } = await submit(owner, { type: 'idle' })
  const paths = [links.self, links.events, `${links.self}/result`, '/jobs', '/nowhere', '/livez']
  for (const path of paths) isSafe(t, (await get(owner, path)).headers)
  isSafe(t, (await get(gateway, links.self)).headers)
  isSafe(t, (await owner.post({ type: 'idle' }, { accept: 'text/event-stream' })).headers)
  isSafe(t, (await owner.post({ type: 'no such' })).headers)
})

t.test('a page of an allowed origin may ask, and read the answer', async (t) => {
  const { links } = await submit(owner, { type: 'idle' })
  for (const origin of [shop, 'http://localhost:5173']) {
    const preflight = await ask(gateway, 'OPTIONS /jobs', {
      origin,
      'access-control-request-method': 'POST',
      'access-control-request-headers': 'authorization,content-type,idempotency-key',
    })
    t.equal(preflight.status, 204)
    t.equal(preflight.headers.get('access-control-allow-origin'), origin)
    t.match(preflight.headers.get('access-control-allow-methods'), /\bPOST\b.*\bPUT\b/)
    t.match(
      preflight.headers.get('access-control-allow-headers'),
      /authorization.*content-type.*idempotency-key/,
    )
    t.equal(preflight.headers.get('access-control-allow-credentials'), null)

    for (const path of [links.self, links.events]) {
      const headers: Record<string, string> = {
        origin,
        accept: path === links.self ? '*/*' : 'application/json',
      }
      const answer = await ask(owner, `GET ${path}`, headers)
      t.equal(answer.status, 200)
      t.equal(answer.headers.get('access-control-allow-origin'), origin)
      t.match(
        answer.headers.get('access-control-expose-headers'),
        /etag.*ratelimit, ratelimit-policy.*retry-after/,
      )
      t.match(answer.headers.get('vary')?.toLowerCase(), /\borigin\b/)
    }
    const refused = await ask(gateway, `GET ${links.self}`, { origin })
    t.equal(refused.status, 401)
    t.equal(refused.headers.get('access-control-allow-origin'), origin, 'so that it can be told why')
  }
  const events = await ask(owner, `GET ${links.events}`, { origin: shop, accept: 'application/json' })
  t.match(events.headers.get('vary')?.toLowerCase(), /accept/, 'and it varies with both')
})

t.test('streams are for pages of allowed origins too', async (t) => {
  const { job_id, links } = await submit(owner, { type: 'idle' })
  await fetch(`${gateway.url}${links.cancel}`, { method: 'POST', headers: owner.headers })
  for (const accept of ['text/event-stream', 'application/x-ndjson']) {
    const stream = await ask(owner, `GET ${links.events}`, { origin: shop, accept })
    t.equal(stream.status, 200)
    t.match(stream.body, job_id)
    t.equal(stream.headers.get('access-control-allow-origin'), shop)
    t.match(stream.headers.get('vary')?.toLowerCase(), /origin.*accept/)
    isSafe(t, stream.headers)
  }
})

t.test('a page of any other origin is told nothing', async (t) => {
  const { links } = await submit(owner, { type: 'idle' })
  for (const origin of [
    'https://evil.example',
    'https://shop.example.com.evil.example',
    'http://shop.example.com',
    'null',
  ]) {
    const asked = { origin, 'access-control-request-method': 'POST' }
    const preflight = await ask(gateway, 'OPTIONS /jobs', asked)
    t.equal(preflight.headers.get('access-control-allow-origin'), null)
    const answer = await ask(owner, `GET ${links.self}`, { origin })
    t.equal(answer.headers.get('access-control-allow-origin'), null)
    t.match(answer.headers.get('vary')?.toLowerCase(), /origin/)
  }
})

t.test('what changes something is refused from there, whatever shows who it is', async (t) => {
  for (const node of [owner, closed]) {
    const { links } = await submit(node, { type: 'idle' })
    for (const origin of ['https://evil.example', 'null', 'http://127.0.0.1:1']) {
      const answer = await ask(node, `POST ${links.cancel}`, { origin, 'content-length': '0' })
      t.equal(answer.status, 403)
      t.match(JSON.parse(answer.body), { code: 'forbidden' })
    }
    t.match(await (await get(node, links.self)).json(), { status: 'queued' })
    const own = await ask(node, `POST ${links.cancel}`, { origin: node.url, 'content-length': '0' })
    t.equal(own.status, 200, 'but not from its own host')
  }
  const { links } = await submit(owner, { type: 'idle' })
  t.equal((await ask(owner, `POST ${links.cancel}`, { origin: shop, 'content-length': '0' })).status, 200)
})

t.test('without the setting no other page may ask at all', async (t) => {
  const preflight = await ask(closed, 'OPTIONS /jobs', {
    origin: shop,
    'access-control-request-method': 'POST',
  })
  t.equal(preflight.status, 404)
  t.equal(preflight.headers.get('access-control-allow-origin'), null)
  await isProblem(t, await fetch(`${closed.url}/jobs`, { method: 'OPTIONS' }), 'no_such_route')
})

t.test('a WebSocket is opened by pages of the host itself and of allowed origins, exactly', async (t) => {
  const { key } = await gateway.createKey()
  for (const origin of [shop, 'http://localhost:5173', gateway.url]) {
    const { send, frame } = await openSocket(t, gateway.url, { origin, token: key })
    send({ op: 'ping' })
    t.match(await frame(), { op: 'pong' })
  }
  for (const origin of [
    'https://evil.example',
    `${shop}.evil.example`,
    'http://shop.example.com',
    'null',
    `${shop}/`,
  ]) {
    const { closed } = await openSocket(t, gateway.url, { origin, init: false })
    t.equal(await closed, 4403, origin)
  }
})

t.test('a page that has its own name resolve to this machine is let in nowhere', async (t) => {
  const port = new URL(closed.url).port
  for (const host of [
    'evil.example.com',
    `evil.example.com:${port}`,
    'evil.example.com.',
    '127.0.0.1.example.com',
  ]) {
    const refused = await ask(closed, 'GET /jobs', { host })
    t.equal(refused.status, 403, host)
    t.match(JSON.parse(refused.body), {
      code: 'forbidden',
      detail: /^Expected localhost, .* got \S*example\.com; /,
    })
    const socket = new WebSocket(`${closed.url.replace('http', 'ws')}/ws`, { headers: { host } })
    socket.on('error', () => undefined)
    const [, response] = (await once(socket, 'unexpected-response')) as [unknown, IncomingMessage]
    t.equal(response.statusCode, 403, host)
    response.destroy()
  }
  for (const host of [
    'localhost',
    `127.0.0.1:${port}`,
    '[::1]',
    '192.0.2.1',
    'quartet.localhost',
    'gateway:3000',
  ]) {
    t.equal((await ask(closed, 'GET /jobs', { host })).status, 200, host)
  }
  t.equal(
    (await ask(gateway, 'GET /jobs', { host: 'jobs.example.com' })).status,
    401,
    'it asks for a key anyway',
  )
  t.equal((await ask({ ...gateway, ...owner }, 'GET /jobs', { host: 'jobs.example.com' })).status, 200)
})
