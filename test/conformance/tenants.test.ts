import { setTimeout as delay } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { v7 as uuidv7 } from 'uuid'
import type { TestGateway } from '../gateway.ts'
import { startKeyedGateway, withKey } from '../keys.ts'
import { deliveriesOf } from './delivery-calls.ts'
import { ended, get, jobIn, openSocket, postText, startReceiver, submit, type JobObject } from './clients.ts'

/* Two tenants at one gateway: what is the one’s is, for the other, what does not exist. */

const gateway = await startKeyedGateway(
  t,
  { echo: { steps: ['echo'], attempts: 1 }, idle: { steps: ['idle'] } },
  { env: { QUARTET_CALLBACK_SCHEDULE: '1ms' } },
)
await gateway.work('echo', async (job) => job.data as unknown)
const mine = await gateway.as({ tenant: 'acme' })
const { key: theirKey } = await gateway.createKey({ tenant: 'umbrella' })
const theirs = withKey(gateway, theirKey)

/** Of mine: a job that has ended, whose webhook is dead, and one that waits. */
const receiver = await startReceiver(t, (response) => response.writeHead(500).end())
const done = await submit(mine, { type: 'echo', input: 'a secret', callback_url: receiver.url })
await ended(mine, done.job_id)
while ((await deliveriesOf(mine, done.job_id)).deliveries[0]?.status !== 'dead') await delay(20)
const waiting = await submit(mine, { type: 'idle', callback_url: receiver.url })

type Ask = (gateway: TestGateway, id: string) => Promise<Response>

const send = (gateway: TestGateway, method: string, path: string, body?: object) =>
  fetch(gateway.url + path, {
    method,
    headers: { ...gateway.headers, ...(body && { 'content-type': 'application/json' }) },
    ...(body && { body: JSON.stringify(body) }),
  })
const asks: Readonly<Record<string, Ask>> = {
  poll: (gateway, id) => get(gateway, `/jobs/${id}`),
  'poll with HEAD': (gateway, id) => send(gateway, 'HEAD', `/jobs/${id}`),
  'poll with an ETag': (gateway, id) => get(gateway, `/jobs/${id}`, { 'if-none-match': '*' }),
  'long poll': (gateway, id) => get(gateway, `/jobs/${id}?after=0`, { prefer: 'wait=60' }),
  'long poll from its end on': (gateway, id) => get(gateway, `/jobs/${id}`, { prefer: 'wait=60' }),
  SSE: (gateway, id) => get(gateway, `/jobs/${id}/events`),
  'SSE from a cursor': (gateway, id) => get(gateway, `/jobs/${id}/events`, { 'last-event-id': '999' }),
  NDJSON: (gateway, id) => get(gateway, `/jobs/${id}/events`, { accept: 'application/x-ndjson' }),
  'a page of events': (gateway, id) => get(gateway, `/jobs/${id}/events`, { accept: 'application/json' }),
  result: (gateway, id) => get(gateway, `/jobs/${id}/result`),
  deliveries: (gateway, id) => get(gateway, `/jobs/${id}/deliveries`),
  redeliver: (gateway, id) => send(gateway, 'POST', `/jobs/${id}/deliveries/3/redeliver`),
  cancel: (gateway, id) => send(gateway, 'POST', `/jobs/${id}/cancel`),
  callback: (gateway, id) => send(gateway, 'PUT', `/jobs/${id}/callback`, { callback_url: receiver.url }),
  'callback that is not valid': (gateway, id) =>
    send(gateway, 'PUT', `/jobs/${id}/callback`, { callback_url: 1, after: 99 }),
}

/** Everything that an answer tells, but for the id that was asked for and the time. */
async function told(response: Response, id: string) {
  const { date: _, 'x-request-id': __, ...headers } = Object.fromEntries(response.headers)
  return { status: response.status, headers, body: (await response.text()).replaceAll(id, '<id>') }
}

for (const [name, ask] of Object.entries(asks)) {
  t.test(`${name}: another tenant’s job is a job that does not exist`, async (t) => {
    const unknownId = uuidv7()
    const unknown = await told(await ask(theirs, unknownId), unknownId)
    t.match(unknown, { status: 404 })
    for (const { job_id } of [done, waiting])
      t.strictSame(await told(await ask(theirs, job_id), job_id), unknown)
  })
}

t.test('nothing of that has changed anything', async (t) => {
  t.match(await jobIn(await get(mine, waiting.links.self)), { status: 'queued', seq: 1 })
  t.match(await deliveriesOf(mine, done.job_id), { deliveries: [{ status: 'dead', tries: [{}, {}] }] })
})

for (const [name, ask] of Object.entries(asks)) {
  if (name === 'cancel' || name.includes('callback') || name === 'redeliver' || name.includes('end on'))
    continue
  t.test(`${name}: one’s own is there`, async (t) => {
    t.not((await ask(mine, done.job_id)).status, 404)
  })
}

t.test('a WebSocket subscribes to, cancels and leaves nothing of another tenant', async (t) => {
  const { send, frame, isQuiet } = await openSocket(t, gateway.url, { token: theirKey })
  const answerTo = async (message: object, id: string) => {
    send({ ...message, ref: 1, job_id: id })
    return JSON.stringify(await frame()).replaceAll(id, '<id>')
  }
  for (const message of [
    { op: 'subscribe' },
    { op: 'subscribe', after: 99 },
    { op: 'cancel' },
    { op: 'unsubscribe' },
  ]) {
    const unknown = await answerTo(message, uuidv7())
    t.match(unknown, message.op === 'unsubscribe' ? '"done"' : '"not_found"')
    for (const { job_id } of [done, waiting]) t.equal(await answerTo(message, job_id), unknown)
  }
  send({ op: 'ping' })
  t.match(await frame(), { op: 'pong' })
  t.ok(isQuiet(), 'and no event came')
  t.match(await jobIn(await get(mine, waiting.links.self)), { status: 'queued' })
})

t.test('a list has one’s own jobs only', async (t) => {
  const own = await submit(theirs, { type: 'idle' })
  t.same(await idsIn(t, theirs, '/jobs'), [own.job_id])
  t.same(await idsIn(t, theirs, `/jobs?page_token=${waiting.job_id}`), [])
  const seen = await idsIn(t, mine, '/jobs')
  t.ok(seen.includes(done.job_id) && !seen.includes(own.job_id))
})

t.test('dead letters are listed and redelivered for one’s own tenant only', async (t) => {
  const { origin } = new URL(receiver.url)
  const dead = async (gateway: TestGateway) =>
    (await (await get(gateway, `/deliveries?status=dead&origin=${origin}`)).json()) as object
  t.strictSame(await dead(theirs), { deliveries: [], next_page_token: null })
  t.match(await dead(mine), { deliveries: [{ job_id: done.job_id, status: 'dead' }] })
  const redeliver = async (gateway: TestGateway) =>
    (await send(gateway, 'POST', '/deliveries/redeliver', { origin })).json()
  t.strictSame(await redeliver(theirs), { redelivered: 0 })
  t.match(await dead(mine), { deliveries: [{ job_id: done.job_id }] }, 'it is dead still')
  t.strictSame(await redeliver(mine), { redelivered: 1 })
})

t.test('an idempotency key is its tenant’s', async (t) => {
  const post = async (gateway: TestGateway, input: number) => {
    const response = await gateway.post({ type: 'echo', input }, { 'idempotency-key': 'the same' })
    return {
      status: response.status,
      replayed: response.headers.has('idempotent-replayed'),
      job: await jobIn(response),
    }
  }
  const first = await post(mine, 1)
  const other = await post(theirs, 2)
  t.match([first, other], [{ replayed: false }, { status: 202, replayed: false }], 'also with another body')
  t.not(other.job.job_id, first.job.job_id)
  t.match(await post(mine, 1), { replayed: true, job: { job_id: first.job.job_id } })
  t.match(await post(mine, 2), { status: 422 })
})

t.test('what comes to whom is decided by the key, not by the request', async (t) => {
  const body = JSON.stringify({ type: 'idle', metadata: { tenant: 'acme' } })
  const job = (await (await postText(theirs, body)).json()) as JobObject
  t.equal((await get(mine, job.links.self)).status, 404)
  const headers = { ...theirs.headers, 'x-tenant': 'acme', tenant: 'acme' }
  t.equal((await fetch(`${gateway.url}${done.links.self}?tenant=acme`, { headers })).status, 404)
})

async function idsIn(t: Test, gateway: TestGateway, path: string): Promise<string[]> {
  const response = await get(gateway, path)
  t.equal(response.status, 200)
  return ((await response.json()) as { jobs: JobObject[] }).jobs.map(({ job_id }) => job_id)
}
