import { createHmac } from 'node:crypto'
import { setTimeout as delay } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { v7 as uuidv7 } from 'uuid'
import type { TestGateway } from '../gateway.ts'
import { startKeyedGateway, withKey } from '../keys.ts'
import {
  all,
  ended,
  eventsIn,
  get,
  isInvalid,
  isProblem,
  isoTime,
  openSocket,
  piecesOf,
  submit,
} from './clients.ts'

/* docs/PROTOCOL.md "POST /jobs/{id}/tokens": what a browser may have. */

const types = { echo: { steps: ['echo'], attempts: 1 }, idle: { steps: ['idle'] } }
const gateway = await startKeyedGateway(t, types)
const other = await startKeyedGateway(t, types, { redis: gateway.redis })
await gateway.work('echo', async (job) => job.data as unknown)
const owner = await gateway.as()

interface TokenObject {
  token: string
  job_id: string
  expires_at: string
}

function ask(gateway: TestGateway, id: string, body?: unknown) {
  return fetch(`${gateway.url}/jobs/${id}/tokens`, {
    method: 'POST',
    headers: { ...gateway.headers, ...(body !== undefined && { 'content-type': 'application/json' }) },
    ...(body !== undefined && { body: JSON.stringify(body) }),
  })
}

async function tokenFor(gateway: TestGateway, id: string, body?: unknown): Promise<TokenObject> {
  const response = await ask(gateway, id, body)
  if (response.status !== 201) throw new Error(`Expected 201, got ${response.status}`)
  return (await response.json()) as TokenObject
}

t.test('a token is given for 15 minutes, or less if that is asked for', async (t) => {
  const { job_id } = await submit(owner, { type: 'idle' })
  const before = Date.now()
  const response = await ask(owner, job_id)
  t.equal(response.headers.get('cache-control'), 'no-store')
  const given = (await response.json()) as TokenObject
  t.match(given, { token: /^qt_[\w-]+\.[\w-]{43}$/, job_id, expires_at: isoTime })
  const left = Date.parse(given.expires_at) - before
  t.ok(left > 890_000 && left < 960_000)
  const brief = await tokenFor(owner, job_id, { ttl_s: 60 })
  t.ok(Date.parse(brief.expires_at) < Date.parse(given.expires_at) - 800_000)
  t.not((await tokenFor(owner, job_id, {})).token, '')
})

t.test('of a token as of any body it is said what is wrong', async (t) => {
  const { job_id } = await submit(owner, { type: 'idle' })
  for (const ttl_s of [0, -1, 901, 1.5, '60', null])
    await isInvalid(t, await ask(owner, job_id, { ttl_s }), ['/ttl_s'])
  await isInvalid(t, await ask(owner, job_id, { ttl: 1 }), ['/ttl'])
  await isInvalid(t, await ask(owner, job_id, []), [''])
  await isProblem(t, await ask(owner, uuidv7()), 'not_found')
  await isProblem(t, await ask(await gateway.as({ tenant: 'umbrella' }), job_id), 'not_found')
  await isProblem(t, await ask(await gateway.as({ scopes: ['jobs:write'] }), job_id), 'missing_scope')
})

t.test('a token reads its job in every way, on every node', async (t) => {
  const { job_id, links } = await submit(owner, { type: 'echo', input: 'hello' })
  const events = await ended(owner, job_id)
  const { token } = await tokenFor(owner, job_id)
  for (const [node, way] of [
    [gateway, { query: `?token=${token}`, headers: {} }],
    [other, { query: `?token=${token}`, headers: {} }],
    [other, { query: '', headers: { authorization: `Bearer ${token}` } }],
    [other, { query: `?token=${token}`, headers: { authorization: 'Basic YTpi' } }],
  ] as const) {
    const { query, headers } = way
    const job = await get(node, links.self + query, headers)
    t.match(await job.json(), { job_id, status: 'completed' })
    t.match(job.headers.get('cache-control'), /private|no-store/)
    const result = await get(node, `${links.self}/result${query}`, headers)
    t.equal(await result.json(), 'hello')
    t.equal(result.headers.get('cache-control'), 'no-store')
    for (const accept of ['text/event-stream', 'application/x-ndjson']) {
      const stream = await get(node, links.events + query, { ...headers, accept })
      t.equal((await all(eventsIn(stream))).length, events.length)
    }
    const page = await get(node, links.events + query, { ...headers, accept: 'application/json' })
    t.match(await page.json(), { seq: events.length })
    const held = await get(node, `${links.self}${query || '?'}&after=1`, { ...headers, prefer: 'wait=10' })
    t.equal(held.status, 200)
  }
  const { send, frame } = await openSocket(t, other.url, { token })
  send({ op: 'subscribe', ref: 1, job_id })
  t.match(await frame(), { op: 'subscribed', job_id })
})

t.test('a token does nothing else', async (t) => {
  const { job_id, links } = await submit(owner, { type: 'idle' })
  const another = await submit(owner, { type: 'idle' })
  const { token } = await tokenFor(owner, job_id)
  const holder = withKey(gateway, token)
  for (const path of [
    another.links.self,
    another.links.events,
    `${another.links.self}/result`,
    `/jobs/${uuidv7()}`,
  ])
    await isProblem(t, await get(gateway, `${path}?token=${token}`), 'not_found')
  await isProblem(t, await holder.post({ type: 'idle' }), 'missing_scope')
  for (const path of ['/jobs', `${links.self}/deliveries`, '/deliveries?status=dead', '/metrics']) {
    await isProblem(t, await get(holder, path), 'missing_scope')
    const inUrl = await get(gateway, `${path}${path.includes('?') ? '&' : '?'}token=${token}`)
    await isProblem(t, inUrl, 'unauthorized')
  }
  await isProblem(t, await ask(holder, job_id), 'missing_scope')
  const cancelled = await fetch(`${gateway.url}${links.cancel}`, { method: 'POST', headers: holder.headers })
  await isProblem(t, cancelled, 'missing_scope')

  const { send, frame } = await openSocket(t, gateway.url, { token })
  for (const [message, code] of [
    [{ op: 'submit', job: { type: 'idle' } }, 'missing_scope'],
    [{ op: 'cancel', job_id }, 'missing_scope'],
    [{ op: 'subscribe', job_id: another.job_id }, 'not_found'],
  ] as const) {
    send({ ...message, ref: 1 })
    t.match(await frame(), { op: 'error', ref: 1, problem: { code } })
  }
})

t.test('a token that was made up or changed is refused', async (t) => {
  const { job_id, links } = await submit(owner, { type: 'idle' })
  const another = await submit(owner, { type: 'idle' })
  const { token } = await tokenFor(owner, job_id)
  const [body = '', signature = ''] = token.split('.')
  const claims = JSON.parse(Buffer.from(body.slice(3), 'base64url').toString()) as object
  const encode = (changed: object) =>
    `qt_${Buffer.from(JSON.stringify({ ...claims, ...changed })).toString('base64url')}`
  const signed = (text: string) => `${text}.${createHmac('sha256', '').update(text).digest('base64url')}`
  const forged = [
    `${encode({ j: another.job_id })}.${signature}`,
    `${encode({ e: 9_999_999_999_999 })}.${signature}`,
    signed(encode({})),
    `${body}.${signature.slice(0, -1)}`,
    `${body}.${'A'.repeat(43)}`,
    `${body}.`,
    body,
    `${token}.x`,
    'qt_',
    `qt_.${signature}`,
  ]
  for (const each of forged) {
    await isProblem(t, await get(gateway, `${links.self}?token=${each}`), 'unauthorized')
    await isProblem(t, await get(withKey(gateway, each), links.self), 'unauthorized')
  }
  await isProblem(t, await get(gateway, `${links.self}?token=${token}&token=${token}`), 'unauthorized')
  t.equal((await get(gateway, `${links.self}?token=${token}`)).status, 200)
})

/** A stream and a socket by a token. */
async function openBoth(t: Test, id: string, token: string) {
  const stream = await get(other, `/jobs/${id}/events?token=${token}`)
  t.equal(stream.status, 200)
  const socket = await openSocket(t, gateway.url, { token })
  socket.send({ op: 'subscribe', ref: 1, job_id: id })
  t.match(await socket.frame(), { op: 'subscribed' })
  return { stream: all(piecesOf(stream, '\n')), socket }
}

t.test('what is open by a token ends with it', async (t) => {
  const { job_id, links } = await submit(owner, { type: 'idle' })
  const { token } = await tokenFor(owner, job_id, { ttl_s: 1 })
  const { stream, socket } = await openBoth(t, job_id, token)
  t.match((await stream).join('\n'), /"job\.queued"/)
  t.equal(await socket.closed, 4401)
  await isProblem(t, await get(gateway, `${links.self}?token=${token}`), 'unauthorized')
})

t.test('it ends with the key that it was issued by, and not later', async (t) => {
  const expiresAt = Date.now() + 60_000
  const { id, key } = await gateway.createKey({ expiresAt })
  const issuer = withKey(gateway, key)
  const { job_id, links } = await submit(issuer, { type: 'idle' })
  const { token, expires_at } = await tokenFor(issuer, job_id)
  t.equal(Date.parse(expires_at), expiresAt)
  const { stream, socket } = await openBoth(t, job_id, token)
  await gateway.keys.revoke(id)
  await stream
  t.equal(await socket.closed, 4401)
  while ((await get(other, `${links.self}?token=${token}`)).status === 200) await delay(20)
  await isProblem(t, await get(other, `${links.self}?token=${token}`), 'unauthorized')
})
