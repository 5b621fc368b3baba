import { once } from 'node:events'
import { connect, type Socket } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'
import t from 'tap'
import { openSocket } from '../conformance/clients.ts'
import { startGatewayProcess, submit } from '../e2e/processes.ts'
import { startRedis } from '../helper.ts'
import { descriptorsOf } from './process-figures.ts'
import { times } from './report.ts'

const HEARTBEAT_MS = 15_000
const types = { held: { steps: ['held'] } }
const handshake =
  'GET /ws HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n' +
  'sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\nsec-websocket-protocol: quartet.v1\r\n\r\n'

t.test('WebSockets whose peers fall silent are gone within two heartbeats', async (t) => {
  const redis = await startRedis(t)
  const gateway = await startGatewayProcess(t, { redis, types, roles: 'http,collect' })
  const id = await submit(gateway.url, { type: 'held' })
  const lively = await openSocket(t, gateway.url)
  const descriptors = descriptorsOf(gateway)
  const { port } = new URL(gateway.url)
  const peers = await Promise.all(
    Array.from({ length: times(1_000, 200) }, (_, index) =>
      openMute(Number(port), index % 2 === 0 ? id : null),
    ),
  )
  t.ok(descriptorsOf(gateway) >= descriptors + peers.length)
  const ages = await Promise.all(peers.map(({ closedAfterMs }) => closedAfterMs))
  while (descriptorsOf(gateway) > descriptors + 10) await delay(50)
  t.comment(
    `half-open: ${ages.length} WebSockets, gone after ${Math.min(...ages)} to ${Math.max(...ages)} ms`,
  )
  // Two seconds, since the timer of the gateway and the clock of the test do not begin at the same moment.
  t.ok(ages.every((ms) => ms <= 2 * HEARTBEAT_MS + 2_000))
  lively.send({ op: 'ping' })
  t.same(await lively.frame(), { op: 'pong' }, 'one that answers pings stays')
})

/** A peer that takes whatever comes and says nothing any more, no pong either. @param id a job to subscribe to */
async function openMute(port: number, id: string | null) {
  const socket: Socket = connect(port, '127.0.0.1')
  // Cut off rather than closed in an orderly way: that is what is expected.
  socket.on('error', () => undefined)
  socket.write(handshake)
  await once(socket, 'data')
  socket.write(frameOf('{"op":"init"}'))
  if (id !== null) socket.write(frameOf(JSON.stringify({ op: 'subscribe', ref: 1, job_id: id })))
  const since = Date.now()
  socket.resume()
  return { closedAfterMs: once(socket, 'close').then(() => Date.now() - since) }
}

/** RFC 6455 §5.2: a masked text frame of at most 125 bytes. A mask of zeros leaves the text as it is. */
function frameOf(text: string): Buffer {
  return Buffer.concat([Buffer.from([0x81, 0x80 | text.length, 0, 0, 0, 0]), Buffer.from(text)])
}
