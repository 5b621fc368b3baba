import { once } from 'node:events'
import { connect, type Socket } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'
import t from 'tap'
import { startGatewayProcess } from '../e2e/processes.ts'
import { startRedis } from '../helper.ts'
import { startLoad } from './load.ts'
import { descriptorsOf } from './process-figures.ts'
import { settle, times } from './report.ts'

const beginnings = [
  'POST /jobs HTTP/1.1\r\nhost: x\r\nx-slow: ',
  'POST /jobs HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 10000\r\n\r\n',
  'GET /ws HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nx-slow: ',
]

t.test('a thousand requests that come a byte a second are cut off, and all others served', async (t) => {
  const redis = await startRedis(t)
  const gateway = await startGatewayProcess(t, { redis })
  const descriptors = descriptorsOf(gateway)
  const since = Date.now()
  const sockets = await openSockets(gateway.url, 1_000)
  const answers = Promise.all(sockets.map(dribble))
  while (descriptorsOf(gateway) < descriptors + sockets.length) await delay(20)

  const job = { type: 'countdown', input: { from: 3, interval_ms: 20 } }
  const load = startLoad({ urls: [gateway.url], concurrency: 16, job })
  await load.whenAccepted(times(2_000, 500))
  await settle(t, 'slow loris: others', load, { url: gateway.url })
  t.ok(Date.now() - since < 30_000, 'meanwhile')
  const answered = await answers
  const slowest = Math.max(...answered.map(({ at }) => at)) - since
  // They have not hung up on their side, so it is the gateway that does.
  while (descriptorsOf(gateway) > descriptors + 20) await delay(50)
  t.comment(
    `slow loris: ${sockets.length} sockets, ${answered.filter(({ head }) => head.includes(' 408 ')).length} answered 408, ` +
      `the last after ${slowest} ms · descriptors ${descriptors} before, ${descriptorsOf(gateway)} after`,
  )
  t.ok(answered.every(({ head }) => head.startsWith('HTTP/1.1 408 ')))
  // What a request may take, and the second within which that is noticed.
  t.ok(slowest < 35_000)
})

async function openSockets(url: string, count: number): Promise<Socket[]> {
  const { hostname, port } = new URL(url)
  const sockets: Socket[] = []
  while (sockets.length < count) {
    const some = Array.from({ length: 100 }, () =>
      connect({ host: hostname, port: Number(port), allowHalfOpen: true }),
    )
    await Promise.all(some.map((socket) => once(socket, 'connect')))
    sockets.push(...some)
  }
  return sockets
}

/** Sends a byte a second, for as long as it is let. @returns when it was answered, and how */
async function dribble(socket: Socket, index: number): Promise<{ at: number; head: string }> {
  socket.on('error', () => undefined)
  socket.write(beginnings[index % beginnings.length] ?? '')
  const timer = setInterval(() => socket.write('a'), 1_000)
  socket.on('close', () => clearInterval(timer))
  const [data] = (await once(socket, 'data')) as [Buffer]
  return { at: Date.now(), head: data.toString() }
}
