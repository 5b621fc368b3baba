import { once } from 'node:events'
import { connect, type AddressInfo } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'
import Fastify from 'fastify'
import t, { type Test } from 'tap'
import { anonymous } from '../../src/access/identity.ts'
import {
  registerWebSocket,
  socketLimits,
  type SocketLimits,
  type WebSocketParts,
} from '../../src/deliver/websocket.ts'
import { closes } from '../../src/deliver/websocket-session.ts'
import type { Follow } from '../../src/follow.ts'
import { toEvent, type JobRecord } from '../../src/messages.ts'
import { startGateway } from '../gateway.ts'
import { exchange, get, jobIn, openSocket, submit } from './clients.ts'

const gateway = await startGateway(t, { idle: { steps: ['idle'] } })

/** A `/ws` under limits of the test's choice, where every job is there and has the events that `follow` brings. */
async function startSockets(t: Test, limits: Partial<SocketLimits>, follow?: Follow) {
  const app = Fastify()
  const record = { id: '0199a1b2-0000-7000-8000-000000000000', status: 'running', seq: 1 } as JobRecord
  const parts = {
    follow,
    store: { get: async () => ({ record, text: '{}' }) },
    identify: () => anonymous,
    watch: () => () => undefined,
    isAllowedOrigin: () => true,
    countProblem: () => undefined,
    requests: null,
    sockets: null,
    messageRate: { count: 100, perMs: 1_000 },
    maxSubscriptions: 128,
    countLimited: () => undefined,
  } as unknown as WebSocketParts
  await registerWebSocket(app, parts, { ...socketLimits, ...limits })
  t.teardown(() => app.close())
  await app.listen({ port: 0, host: '127.0.0.1' })
  return { url: `http://127.0.0.1:${(app.server.address() as AddressInfo).port}`, id: record.id }
}

t.test('the closes have the codes of the contract', async (t) => {
  t.same(Object.values(closes), [4400, 4401, 4403, 4408, 4429, 4503, 4508, 4510])
})

for (const [what, message] of [
  ['text that is not JSON', '{'],
  ['JSON that is no object', '[]'],
  ['null', 'null'],
  ['an object without op', '{}'],
  ['an unknown op', '{"op":"shout"}'],
  ['a member of no meaning', '{"op":"ping","loud":true}'],
  ['a message named __proto__', '{"op":"ping","__proto__":{}}'],
  ['a submit without ref', '{"op":"submit","job":{}}'],
  ['a ref that is neither text nor number', '{"op":"cancel","ref":{},"job_id":"x"}'],
  ['a ref of 129 characters', JSON.stringify({ op: 'cancel', ref: 'r'.repeat(129), job_id: 'x' })],
  ['a cursor that is no number', '{"op":"subscribe","ref":1,"job_id":"x","after":"1"}'],
  ['a cursor below zero', '{"op":"subscribe","ref":1,"job_id":"x","after":-1}'],
  ['a second init', '{"op":"init"}'],
  ['32,000 brackets', '['.repeat(32_000)],
] as const) {
  t.test(`${what} closes with 4400`, async (t) => {
    const { send, closed } = await openSocket(t, gateway.url)
    send(message)
    t.equal(await closed, 4400)
  })
}

t.test('a binary frame closes with 4400', async (t) => {
  const { socket, closed } = await openSocket(t, gateway.url)
  socket.send(Buffer.from('{"op":"ping"}'))
  t.equal(await closed, 4400)
})

t.test('no subprotocol, or another, closes with 4400', async (t) => {
  const { closed } = await openSocket(t, gateway.url, { protocols: [], init: false })
  t.equal(await closed, 4400)
  const { port } = new URL(gateway.url)
  const socket = connect(Number(port), '127.0.0.1')
  socket.write(
    'GET /ws HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n' +
      'sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\nsec-websocket-protocol: other.v1\r\n\r\n',
  )
  let received = Buffer.alloc(0)
  socket.on('data', (chunk) => (received = Buffer.concat([received, chunk])))
  await once(socket, 'close')
  const head = received.subarray(0, received.indexOf('\r\n\r\n')).toString()
  t.notMatch(head, /sec-websocket-protocol/i)
  const close = received.subarray(received.indexOf('\r\n\r\n') + 4)
  t.equal(close[0], 0x88, 'a close frame')
  t.equal(close.readUInt16BE(2), 4400)
})

t.test("a page of another origin closes with 4403, the gateway's own does not", async (t) => {
  const { host } = new URL(gateway.url)
  for (const origin of ['https://evil.example', 'http://127.0.0.1', `http://${host}.evil.example`, 'null']) {
    const { closed } = await openSocket(t, gateway.url, { init: false, origin })
    t.equal(await closed, 4403, origin)
  }
  const { send, frame } = await openSocket(t, gateway.url, { origin: `https://${host}` })
  send({ op: 'ping' })
  t.same(await frame(), { op: 'pong' })
})

t.test('a message before init closes with 4401', async (t) => {
  for (const message of [{ op: 'ping' }, { op: 'submit', ref: 1, job: { type: 'idle' } }]) {
    const { send, closed } = await openSocket(t, gateway.url, { init: false })
    send(message)
    t.equal(await closed, 4401)
  }
  const { jobs } = (await (await get(gateway, '/jobs')).json()) as { jobs: unknown[] }
  t.same(jobs, [])
})

t.test('no init in time closes with 4408', async (t) => {
  t.equal(socketLimits.initMs, 10_000)
  const { url } = await startSockets(t, { initMs: 50 })
  const { closed } = await openSocket(t, url, { init: false })
  t.equal(await closed, 4408)
})

t.test('the 129th subscription closes with 4429; what has ended, or was left, does not count', async (t) => {
  const { send, frame, closed } = await openSocket(t, gateway.url)
  const subscribe = async () => {
    const { job_id: id } = await submit(gateway, { type: 'idle' })
    send({ op: 'subscribe', ref: 1, job_id: id, after: 1 })
    return id
  }
  const left = await subscribe()
  t.match(await frame(), { op: 'subscribed' })
  send({ op: 'unsubscribe', ref: 2, job_id: left })
  t.match(await frame(), { op: 'done' })
  const over = await subscribe()
  t.match(await frame(), { op: 'subscribed' })
  send({ op: 'cancel', ref: 3, job_id: over })
  for (const _ of ['done', 'event', 'end']) await frame()

  const ids: string[] = []
  for (let n = 1; n <= 128; n++) {
    ids.push(await subscribe())
    await frame()
  }
  send({ op: 'subscribe', ref: 'again', job_id: ids[0], after: 1 })
  t.match(await frame(), { op: 'subscribed', ref: 'again' }, 'the same job is not one more')
  await subscribe()
  t.equal(await closed, 4429)

  const full = await openSocket(t, gateway.url)
  for (const id of ids) full.send({ op: 'subscribe', ref: 1, job_id: id, after: 1 })
  for (const _ of ids) await full.frame()
  full.send({ op: 'submit', ref: 1, job: { type: 'idle', metadata: { never: 'made' } } })
  t.equal(await full.closed, 4429)
  t.notMatch(await (await get(gateway, '/jobs?limit=1')).text(), 'never')
})

t.test('a frame of more than 64 KiB closes with 1009, one of 64 KiB does not', async (t) => {
  const { send, frame, closed } = await openSocket(t, gateway.url)
  const submitOf = (size: number) => {
    const empty = JSON.stringify({ op: 'submit', ref: 1, job: { type: 'idle', input: '' } })
    return empty.replace('""', `"${'x'.repeat(size - empty.length)}"`)
  }
  send(submitOf(65_536))
  t.match(await frame(), { op: 'accepted' })
  t.match(await frame(), { op: 'event' })
  send(submitOf(65_537))
  t.equal(await closed, 1009)
})

t.test('a socket that is too old closes with 4510', async (t) => {
  t.equal(socketLimits.maxAgeMs, 600_000)
  const { url } = await startSockets(t, { maxAgeMs: 50 })
  const { closed } = await openSocket(t, url)
  t.equal(await closed, 4510)
})

t.test('a client that does not read closes with 4508 after 10 seconds', async (t) => {
  const event = toEvent(`{"seq":1,"type":"job.progress","data":"${'x'.repeat(32 * 1_048_576)}"}`)
  const { url, id } = await startSockets(t, {}, (_id, _after, subscriber) => {
    t.equal(subscriber.write([event]), false)
    return { stop: () => undefined, resume: () => undefined }
  })
  const { socket, send, frame, closed } = await openSocket(t, url)
  send({ op: 'subscribe', ref: 1, job_id: id })
  t.match(await frame(), { op: 'subscribed' })
  socket.pause()
  const startedAt = Date.now()
  // The close is behind what waits: whoever reads again in time still hears why.
  await delay(10_500)
  socket.resume()
  t.equal(await closed, 4508)
  t.ok(Date.now() - startedAt >= 10_000)
})

t.test('a peer is pinged, and cut off when nothing has come since the ping before', async (t) => {
  const { url } = await startSockets(t, { heartbeatMs: 50 })
  const lively = await openSocket(t, url)
  for (let beat = 1; beat <= 4; beat++) await once(lively.socket, 'ping')
  t.equal(lively.socket.readyState, lively.socket.OPEN)

  const { port } = new URL(url)
  const mute = connect(Number(port), '127.0.0.1')
  mute.write(
    'GET /ws HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n' +
      'sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\nsec-websocket-protocol: quartet.v1\r\n\r\n',
  )
  mute.resume()
  await once(mute, 'close')
  t.pass('cut off')
})

t.test('a gateway that shuts down closes its sockets with 4503', async (t) => {
  const gateway = await startGateway(t, { idle: { steps: ['idle'] } })
  const idle = await openSocket(t, gateway.url)
  const busy = await openSocket(t, gateway.url)
  busy.send({ op: 'submit', ref: 1, job: { type: 'idle' } })
  const { job } = await busy.frame()
  const early = await openSocket(t, gateway.url, { init: false })
  await gateway.app.close()
  t.same(await Promise.all([idle.closed, busy.closed, early.closed]), [4503, 4503, 4503])

  const other = await startGateway(t, { idle: { steps: ['idle'] } }, { redis: gateway.redis })
  const again = await openSocket(t, other.url)
  again.send({ op: 'subscribe', ref: 1, job_id: job?.job_id, after: 1 })
  t.match(await again.frame(), { op: 'subscribed', seq: 1 }, 'and another node goes on')
})

t.test('another address has no WebSocket', async (t) => {
  const answer = await exchange(
    gateway.url,
    'GET /other HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n' +
      'sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n',
  )
  t.match(answer, /^HTTP\/1\.1 404 /)
  t.match(answer, '"code":"no_such_route"')
  t.equal(
    (await jobIn(await get(gateway, `/jobs/${(await submit(gateway, { type: 'idle' })).job_id}`))).seq,
    1,
  )
})

t.test('an upgrade to anything else is answered, and told that the connection ends', async (t) => {
  const { links } = await submit(gateway, { type: 'idle' })
  for (const [path, status] of [
    [links.self, 200],
    ['/livez', 200],
    ['/jobs/none', 404],
  ] as const) {
    const { hostname, port } = new URL(gateway.url)
    const socket = connect(Number(port), hostname)
    socket.write(
      `GET ${path} HTTP/1.1\r\nhost: x\r\nconnection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABk\r\n\r\n`,
    )
    const pieces: Buffer[] = []
    // Whoever goes on sending while the answer comes still gets all of it, and then the end.
    socket.on('data', (piece: Buffer) => {
      pieces.push(piece)
      socket.write('x'.repeat(100_000))
    })
    await once(socket, 'close')
    const [head = '', body = ''] = Buffer.concat(pieces).toString().split('\r\n\r\n')
    t.match(head, new RegExp(`^HTTP/1\\.1 ${status} `))
    t.match(head, /\r\nconnection: close(\r\n|$)/i)
    t.notMatch(head, /keep-alive/i)
    t.equal(typeof JSON.parse(body), 'object')
  }
})
