import { once } from 'node:events'
import t from 'tap'
import { startGateway } from '../gateway.ts'
import {
  all,
  cancel,
  ended,
  eventsIn,
  get,
  isProblem,
  jobIn,
  leadWorker,
  openSocket,
  submit,
} from './clients.ts'

const gateway = await startGateway(t, {
  echo: { steps: ['echo'], attempts: 1 },
  idle: { steps: ['idle'] },
  held: { steps: ['held'], attempts: 1 },
  chatty: { steps: ['chatty'], attempts: 1, journal_limit: 10 },
})
await gateway.work('echo', async (job) => job.data as unknown)
const held = await leadWorker(gateway, 'held')
const unknownId = '0199a1b2-0000-7000-8000-000000000000'

t.test('init is answered with ready, ping with pong', async (t) => {
  const { socket, send, frame } = await openSocket(t, gateway.url, { init: false })
  t.equal(socket.protocol, 'quartet.v1')
  send({ op: 'init', token: 'not used yet' })
  t.same(await frame(), { op: 'ready', heartbeat_ms: 15_000, max_subscriptions: 128 })
  send({ op: 'ping' })
  t.same(await frame(), { op: 'pong' })
})

t.test('the subprotocol is found among others', async (t) => {
  const { socket } = await openSocket(t, gateway.url, { protocols: ['other.v1', 'quartet.v1'] })
  t.equal(socket.protocol, 'quartet.v1')
})

t.test('submit is answered with the job, its events and the end', async (t) => {
  const { send, frame, next, isQuiet } = await openSocket(t, gateway.url)
  send({ op: 'submit', ref: 'mine', job: { type: 'echo', input: { a: 1 }, metadata: { m: '1' } } })
  const { op, ref, job } = await frame()
  t.match({ op, ref }, { op: 'accepted', ref: 'mine' })
  t.match(job, { type: 'echo', status: 'queued', seq: 1, metadata: { m: '1' } })
  const frames = [await next(), await next(), await next()]
  const texts = await all(
    eventsIn(await get(gateway, job?.links.events ?? '', { accept: 'application/x-ndjson' })),
  )
  t.same(
    frames,
    texts.map((text) => `{"op":"event","event":${text}}`),
  )
  t.match(texts.at(-1), '"result":{"a":1}')
  t.same(await frame(), { op: 'end', job_id: job?.job_id })

  send({ op: 'ping' })
  t.same(await frame(), { op: 'pong' })
  t.ok(isQuiet())
})

t.test('subscribe brings the events after a cursor, and those to come', async (t) => {
  const { job_id: id } = await submit(gateway, { type: 'held' })
  const attempt = await held.next()
  await attempt.job.updateProgress(10)
  await get(gateway, `/jobs/${id}?after=2`, { prefer: 'wait=20' })
  const { send, frame } = await openSocket(t, gateway.url)

  send({ op: 'subscribe', ref: 7, job_id: id, after: 2 })
  t.same(await frame(), { op: 'subscribed', ref: 7, job_id: id, seq: 3 })
  t.match(await frame(), { op: 'event', event: { seq: 3, data: { percent: 10 } } })

  send({ op: 'subscribe', ref: 8, job_id: id })
  t.match(await frame(), { op: 'subscribed', ref: 8 }, 'again: it moves the cursor')
  for (const seq of [1, 2, 3]) t.match(await frame(), { op: 'event', event: { seq } })

  attempt.complete()
  t.match(await frame(), { op: 'event', event: { seq: 4, type: 'job.completed' } })
  t.same(await frame(), { op: 'end', job_id: id })

  send({ op: 'subscribe', ref: 9, job_id: id, after: 3 })
  t.same(await frame(), { op: 'subscribed', ref: 9, job_id: id, seq: 4 })
  t.match(await frame(), { op: 'event', event: { seq: 4 } })
  t.same(await frame(), { op: 'end', job_id: id })
  for (const after of [4, 99]) {
    send({ op: 'subscribe', ref: after, job_id: id, after })
    t.match(await frame(), { op: 'subscribed', ref: after, seq: 4 })
    t.same(await frame(), { op: 'end', job_id: id }, 'nothing is left')
  }
})

t.test('trimmed events are replaced by one snapshot', async (t) => {
  await gateway.work('chatty', async (job) => {
    for (let n = 1; n <= 30; n++) await job.updateProgress({ output: n })
  })
  const { job_id: id } = await submit(gateway, { type: 'chatty' })
  await ended(gateway, id)
  const { send, frame } = await openSocket(t, gateway.url)
  send({ op: 'subscribe', ref: 1, job_id: id })
  t.match(await frame(), { op: 'subscribed', seq: 33 })
  t.match(await frame(), { event: { type: 'job.snapshot', seq: 23, truncated: true, data: { seq: 33 } } })
  t.match(await frame(), { event: { type: 'job.progress', seq: 24 } })
})

t.test('one socket carries many jobs, and unsubscribe ends one of them', async (t) => {
  const { send, frame } = await openSocket(t, gateway.url)
  const ids: string[] = []
  for (const ref of [1, 2]) {
    send({ op: 'submit', ref, job: { type: 'idle' } })
    ids.push((await frame()).job?.job_id ?? '')
    t.match(await frame(), { op: 'event', event: { seq: 1, job_id: ids.at(-1) } })
  }
  const [left, kept] = ids
  send({ op: 'unsubscribe', ref: 'u', job_id: left })
  t.same(await frame(), { op: 'done', ref: 'u' })
  send({ op: 'unsubscribe', ref: 'u2', job_id: left })
  t.same(await frame(), { op: 'done', ref: 'u2' }, 'what is not subscribed to can be unsubscribed from')

  await cancel(gateway, left ?? '')
  await cancel(gateway, kept ?? '')
  t.match(await frame(), { op: 'event', event: { type: 'job.canceled', job_id: kept } })
  t.same(await frame(), { op: 'end', job_id: kept })
  t.match(await jobIn(await get(gateway, `/jobs/${left}`)), { status: 'canceled' })
})

t.test('cancel is done, and its outcome is in the events', async (t) => {
  const { send, frame } = await openSocket(t, gateway.url)
  const waiting = await submit(gateway, { type: 'idle' })
  for (const ref of ['once', 'twice']) {
    send({ op: 'cancel', ref, job_id: waiting.job_id })
    t.same(await frame(), { op: 'done', ref })
  }
  t.match(await jobIn(await get(gateway, waiting.links.self)), { status: 'canceled' })

  send({ op: 'submit', ref: 1, job: { type: 'held' } })
  const { job } = await frame()
  const attempt = await held.next()
  t.match([await frame(), await frame()], [{ event: { seq: 1 } }, { event: { seq: 2 } }])
  send({ op: 'cancel', ref: 2, job_id: job?.job_id })
  const [done, canceling] = [await frame(), await frame()].toSorted((a, b) => a.op.localeCompare(b.op))
  t.same(done, { op: 'done', ref: 2 })
  t.match(canceling, { op: 'event', event: { type: 'job.canceling' } })
  attempt.complete('in spite of it')
  t.match(await frame(), { op: 'event', event: { type: 'job.completed' } })
  t.match(await frame(), { op: 'end' })
  send({ op: 'cancel', ref: 3, job_id: job?.job_id })
  t.match(await frame(), { op: 'error', ref: 3, problem: { code: 'already_finished', status: 409 } })
})

t.test('what fails is an error with its ref, and the socket goes on', async (t) => {
  const { send, frame } = await openSocket(t, gateway.url)
  const { job_id: id } = await submit(gateway, { type: 'idle' })
  const failures = [
    [{ op: 'submit', job: { type: 'nothing', priority: -1 } }, 'invalid'],
    [{ op: 'submit', job: 'no object' }, 'invalid'],
    [{ op: 'submit', job: { type: 'idle' }, idempotency_key: '' }, 'malformed_request'],
    [{ op: 'subscribe', job_id: unknownId }, 'not_found'],
    [{ op: 'subscribe', job_id: 'no id' }, 'not_found'],
    [{ op: 'subscribe', job_id: id, after: 2 }, 'bad_cursor'],
    [{ op: 'cancel', job_id: unknownId }, 'not_found'],
  ] as const
  for (const [index, [message, code]] of failures.entries()) {
    send({ ...message, ref: index })
    t.match(await frame(), {
      op: 'error',
      ref: index,
      problem: { code, type: `urn:quartet:problem:${code}` },
    })
  }
  send({ op: 'submit', ref: 'x', job: { type: 'nothing', priority: -1 } })
  const { problem } = await frame()
  t.same(problem?.errors?.map(({ path }) => path).toSorted(), ['/priority', '/type'])
})

t.test('messages are answered in the order in which they came', async (t) => {
  const { send, frame } = await openSocket(t, gateway.url)
  const refs = Array.from({ length: 30 }, (_, index) => index)
  for (const ref of refs) {
    if (ref % 3 === 0) send({ op: 'submit', ref, job: { type: 'idle', delay_ms: 60_000 } })
    else if (ref % 3 === 1) send({ op: 'subscribe', ref, job_id: unknownId })
    else send({ op: 'unsubscribe', ref, job_id: unknownId })
  }
  const answered: unknown[] = []
  while (answered.length < refs.length) {
    const { op, ref } = await frame()
    if (op !== 'event') answered.push(ref)
  }
  t.same(answered, refs)
})

t.test('hanging up never cancels a job', async (t) => {
  const { socket, send, frame } = await openSocket(t, gateway.url)
  send({ op: 'submit', ref: 1, job: { type: 'held' } })
  const { job } = await frame()
  const attempt = await held.next()
  socket.terminate()
  await once(socket, 'close')
  attempt.complete('done')
  t.match((await ended(gateway, job?.job_id ?? '')).at(-1), { type: 'job.completed' })
})

t.test('what is no WebSocket handshake is told to upgrade', async (t) => {
  const response = await get(gateway, '/ws')
  t.equal(response.headers.get('upgrade'), 'websocket')
  t.match(response.headers.get('connection'), /upgrade/i)
  await isProblem(t, response, 'upgrade_required')
})
