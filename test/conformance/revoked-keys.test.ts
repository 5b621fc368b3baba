import { setTimeout as delay } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { startKeyedGateway, withKey, type KeyedGateway } from '../keys.ts'
import { all, get, isProblem, jobIn, openSocket, piecesOf, submit } from './clients.ts'

/* What becomes of a key’s streams when it is revoked, or its time is over. */

const types = { idle: { steps: ['idle'] } }
const node = await startKeyedGateway(t, types)
const other = await startKeyedGateway(t, types, { redis: node.redis })

/** Everything that a client can have open, on two nodes, and what each of them comes to. */
async function openAll(t: Test, key: string) {
  const [here, there] = [withKey(node, key), withKey(other, key)]
  const { links, job_id } = await submit(here, { type: 'idle' })
  const streams = [
    await get(here, links.events),
    await get(there, links.events, { accept: 'application/x-ndjson' }),
    await there.post({ type: 'idle' }, { accept: 'text/event-stream' }),
  ]
  for (const stream of streams) t.equal(stream.status, 200)
  const socket = await openSocket(t, other.url, { token: key })
  socket.send({ op: 'subscribe', ref: 1, job_id })
  t.match(await socket.frame(), { op: 'subscribed' })
  const held = get(there, `${links.self}?after=1`, { prefer: 'wait=60' })
  const heldPost = here.post({ type: 'idle' }, { prefer: 'wait=60' })
  return { streams: streams.map((stream) => all(piecesOf(stream, '\n'))), socket, held, heldPost, links }
}

async function isAllOver(t: Test, opened: Awaited<ReturnType<typeof openAll>>) {
  const [sse = [], ndjson = []] = await Promise.all(opened.streams)
  t.match(sse.join('\n'), /"job\.queued".*\n+retry: \d+/s)
  t.match(ndjson.join('\n'), /"job\.queued"/)
  t.equal(await opened.socket.closed, 4401)
  await isProblem(t, await opened.held, 'unauthorized')
  const posted = await opened.heldPost
  t.equal(posted.status, 202, 'what was accepted was accepted')
  t.equal((await jobIn(posted)).status, 'queued')
}

async function isRefused(t: Test, gateway: KeyedGateway, key: string) {
  while ((await get(withKey(gateway, key), '/jobs')).status === 200) await delay(20)
  await isProblem(t, await get(withKey(gateway, key), '/jobs'), 'unauthorized')
}

t.test('a revoked key is refused on every node, and all that is open by it ends', async (t) => {
  const [{ id, key }, { key: another }] = [await node.createKey(), await node.createKey()]
  const opened = await openAll(t, key)
  const untouched = await openSocket(t, node.url, { token: another })
  await node.keys.revoke(id)
  await isAllOver(t, opened)
  await Promise.all([isRefused(t, node, key), isRefused(t, other, key)])
  untouched.send({ op: 'ping' })
  t.match(await untouched.frame(), { op: 'pong' }, 'and of no other key anything')
})

t.test('it does not take a message for that', async (t) => {
  const { id, key } = await node.createKey()
  const opened = await openAll(t, key)
  const redis = node.redis.connect()
  await redis.multi().hdel('{quartet}:api-keys', id).hincrby('{quartet}:api-keys', 'revocations', 1).exec()
  await isAllOver(t, opened)
  await Promise.all([isRefused(t, node, key), isRefused(t, other, key)])
})

t.test('a key whose time is over ends what is open by it', async (t) => {
  const expiresAt = Date.now() + 1_500
  const { key } = await node.createKey({ expiresAt })
  await isAllOver(t, await openAll(t, key))
  t.ok(Date.now() >= expiresAt - 100)
  await isRefused(t, node, key)
})

t.test('while the store is away nobody is let in by what was known before', async (t) => {
  const gateway = await startKeyedGateway(t, types)
  const { key } = await gateway.createKey()
  t.equal((await get(withKey(gateway, key), '/jobs')).status, 200)
  await gateway.redis.stop()
  // Its answer needs nothing of the store.
  while ((await get(withKey(gateway, key), '/metrics')).status === 200) await delay(20)
  await isProblem(t, await get(withKey(gateway, key), '/metrics'), 'store_unavailable')
  const { send, closed } = await openSocket(t, gateway.url, { init: false })
  send({ op: 'init', token: key })
  t.equal(await closed, 4503)
})
