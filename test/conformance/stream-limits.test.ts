import { once } from 'node:events'
import { connect, type AddressInfo, type Socket } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'
import Fastify from 'fastify'
import t, { type Test } from 'tap'
import { ndjson } from '../../src/deliver/ndjson.ts'
import { sse } from '../../src/deliver/sse.ts'
import {
  createStreams,
  streamLimits,
  type StreamFormat,
  type StreamLimits,
} from '../../src/deliver/stream.ts'
import type { Subscriber } from '../../src/follow.ts'
import { anonymous } from '../../src/access/identity.ts'
import { toEvent, type JobEvent } from '../../src/messages.ts'
import { createInbox, eventsIn, parse, piecesOf } from './clients.ts'

const eventOf = (seq: number, padding = '') =>
  toEvent(`{"seq":${seq},"type":"job.progress","data":{"output":"${padding}"}}`)

/** Streams a journal that the test writes, on a server of its own and under limits of the test's choice. */
async function startStreams(t: Test, limits: Partial<StreamLimits>, before?: () => Promise<unknown>) {
  const followers = createInbox<Subscriber & { stopped: Promise<void>; resumed: Promise<void> }>()
  const streams = createStreams(
    (_id, _after, subscriber) => {
      let stop = () => {}
      let resume = () => {}
      const stopped = new Promise<void>((resolve) => (stop = resolve))
      const resumed = new Promise<void>((resolve) => (resume = resolve))
      followers.push({ ...subscriber, stopped, resumed })
      return { stop, resume }
    },
    () => () => undefined,
    { ...streamLimits, ...limits },
  )
  const app = Fastify()
  app.decorateRequest('identity', { getter: () => anonymous })
  const serve = (path: string, format: StreamFormat) =>
    app.get(path, async (_request, reply) => {
      await before?.()
      streams.open(reply, format, 'id', 0)
    })
  serve('/sse', sse)
  serve('/ndjson', ndjson)
  t.teardown(async () => {
    const closed = app.close()
    app.server.closeAllConnections()
    await closed
  })
  await app.listen({ port: 0, host: '127.0.0.1' })
  const { port } = app.server.address() as AddressInfo
  return { app, streams, followers, port, url: `http://127.0.0.1:${port}` }
}

t.test('silence is broken by a comment, on NDJSON by an empty line', async (t) => {
  t.equal(streamLimits.heartbeatMs, 15_000)
  const { url, followers } = await startStreams(t, { heartbeatMs: 20 })
  const blocks = piecesOf(await fetch(`${url}/sse`), '\n\n')
  t.equal((await blocks.next()).value, 'retry: 2000')
  t.equal((await blocks.next()).value, ': ping')
  t.equal((await blocks.next()).value, ': ping')
  const { stopped } = await followers.next()
  await blocks.return(undefined)
  await stopped

  const lines = piecesOf(await fetch(`${url}/ndjson`), '\n')
  t.equal((await lines.next()).value, '')
  const follower = await followers.next()
  follower.write([eventOf(1)])
  for (let line = ''; line === '';) {
    line = (await lines.next()).value as string
    if (line) t.equal(line, eventOf(1).text)
  }
  t.equal((await lines.next()).value, '', 'and again')
  await lines.return(undefined)
  await follower.stopped
})

t.test('a stream ends without a terminal event when it is old, within a fifth of ten minutes', async (t) => {
  t.equal(streamLimits.maxAgeMs, 600_000)
  const { url, followers } = await startStreams(t, { maxAgeMs: 100 })
  const startedAt = Date.now()
  const response = await fetch(`${url}/sse`)
  const follower = await followers.next()
  follower.write([eventOf(1)])
  const events: string[] = []
  for await (const text of eventsIn(response)) events.push(text)
  t.same(
    events.map((text) => parse(text).seq),
    [1],
  )
  t.ok(Date.now() - startedAt >= 75)
  await follower.stopped
})

t.test('streams end when the gateway shuts down', async (t) => {
  const { url, streams, followers } = await startStreams(t, {})
  const responses = await Promise.all([fetch(`${url}/sse`), fetch(`${url}/ndjson`)])
  streams.endAll()
  t.match(await responses[0].text(), /^retry: 2000\n\nretry: \d+\n\n$/)
  t.equal(await responses[1].text(), '')
  await (
    await followers.next()
  ).stopped
  await (
    await followers.next()
  ).stopped
})

t.test('the clients of streams that end at once are told to come back at different times', async (t) => {
  const { url, streams } = await startStreams(t, {})
  const responses = await Promise.all(Array.from({ length: 50 }, () => fetch(`${url}/sse`)))
  streams.endAll()
  const texts = await Promise.all(responses.map((response) => response.text()))
  const waits = texts.map((each) => Number(/retry: (\d+)\n\n$/.exec(each)?.[1]))
  t.ok(waits.every((ms) => ms >= 500 && ms < 5_000))
  t.ok(new Set(waits).size > 40)
  t.ok(new Set(waits.map((ms) => Math.floor(ms / 500))).size >= 5, 'over the whole range')
})

t.test('a job that has ended leaves its client nothing to come back for', async (t) => {
  const { url, followers } = await startStreams(t, {})
  const response = await fetch(`${url}/sse`)
  const follower = await followers.next()
  follower.end()
  t.equal(await response.text(), 'retry: 2000\n\n')
})

t.test('a client that leaves the end of its stream unread is cut off', async (t) => {
  const { app, streams, port, followers } = await startStreams(t, { drainMs: 200 })
  const connection = once(app.server, 'connection')
  const socket = connect(port, '127.0.0.1').on('error', () => undefined)
  t.teardown(() => socket.destroy())
  socket.write('GET /ndjson HTTP/1.1\r\nhost: x\r\n\r\n')
  const [served] = (await connection) as [Socket]
  const follower = await followers.next()
  // The head is under way.
  await new Promise<void>((resolve) => void served.write('', () => resolve()))
  // What is left when the kernel takes no more is less than a full buffer, so the stream does not count as full.
  let hasRoom = true
  while (hasRoom && served.writableLength === 0) {
    hasRoom = follower.write([eventOf(1, 'x'.repeat(8_192))])
    if (served.writableLength > 0) await delay(50)
  }
  t.ok(hasRoom && served.writableLength > 0)
  streams.endAll()
  await once(served, 'close')
  t.pass('and its socket is gone')
})

t.test('a client that does not read is cut off, and one that reads again goes on', async (t) => {
  t.equal(streamLimits.drainMs, 10_000)
  // More than the kernel takes off the gateway's hands.
  const event = eventOf(1, 'x'.repeat(32 * 1_048_576))
  const open = async (limits: Partial<StreamLimits>) => {
    const { port, followers } = await startStreams(t, limits)
    const socket = connect(port, '127.0.0.1').on('error', () => undefined)
    socket.write('GET /ndjson HTTP/1.1\r\nhost: x\r\n\r\n')
    const follower = await followers.next()
    t.notOk(follower.write([event]), 'there is no room')
    return { socket, follower }
  }

  const dead = await open({ drainMs: 100 })
  await dead.follower.stopped

  const slow = await open({})
  slow.socket.resume()
  await slow.follower.resumed
  t.ok(slow.follower.write([eventOf(2)]))
  slow.socket.destroy()
  await slow.follower.stopped
})

t.test('a client that takes a large event slowly gets it whole, and the end after it', async (t) => {
  const { app, port, followers } = await startStreams(t, { drainMs: 1_500 })
  const connection = once(app.server, 'connection')
  const socket = connect(port, '127.0.0.1')
  socket.write('GET /ndjson HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n')
  const [served] = (await connection) as [Socket]
  const follower = await followers.next()
  // More than the kernel takes off the gateway's hands; what is left takes several times the limit.
  const event = eventOf(1, 'x'.repeat(24 * 1_048_576))
  const since = Date.now()
  t.notOk(follower.write([event]), 'there is no room')
  follower.end()
  let received = 0
  for await (const chunk of socket) {
    received += (chunk as Buffer).length
    if (Date.now() - since < 4_000) await delay(20)
  }
  t.ok(Date.now() - since >= 3_000, 'it took longer than the limit')
  t.ok(received > event.text.length, 'every byte came')
  t.ok(served.destroyed)
})

t.test('the head of a stream comes at once, however long the first event takes', async (t) => {
  const { url, followers } = await startStreams(t, {})
  for (const path of ['/sse', '/ndjson']) {
    const response = await fetch(url + path)
    t.equal(response.status, 200)
    const follower = await followers.next()
    await response.body?.cancel()
    await follower.stopped
  }
})

t.test('a client that has hung up before its stream begins leaves nothing behind', async (t) => {
  let socketClosed = Promise.resolve<unknown>(undefined)
  const { app, port, followers } = await startStreams(t, { heartbeatMs: 10 }, () => socketClosed)
  app.server.on('connection', (socket) => {
    socketClosed = once(socket, 'close')
  })
  const socket = connect(port, '127.0.0.1')
  app.server.once('request', () => socket.destroy())
  socket.write('GET /sse HTTP/1.1\r\nhost: x\r\n\r\n')
  await once(app.server, 'request')
  await socketClosed
  await new Promise(setImmediate)
  if (!followers.isEmpty()) await (await followers.next()).stopped
  t.pass('nobody follows')
})

t.test('streams that were asked for one behind the other end with their connection', async (t) => {
  const { port, followers } = await startStreams(t, {})
  const socket = connect(port, '127.0.0.1')
  socket.write('GET /sse HTTP/1.1\r\nhost: x\r\n\r\n'.repeat(20))
  const all = []
  while (all.length < 20) all.push(await followers.next())
  socket.destroy()
  await Promise.all(all.map(({ stopped }) => stopped))
  t.pass('nobody follows')
})

t.test('an event is encoded once, whoever gets it', async (t) => {
  const event: JobEvent = eventOf(1)
  t.equal(sse.encode(event), sse.encode(event))
  t.equal(ndjson.encode(event), ndjson.encode(event))
})
