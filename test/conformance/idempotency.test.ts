import t from 'tap'
import { startGateway } from '../gateway.ts'
import { all, ended, eventsIn, get, isProblem, jobIn, leadWorker, openSocket, parse } from './clients.ts'

const gateway = await startGateway(t, {
  echo: { steps: ['echo'], attempts: 1 },
  idle: { steps: ['idle'] },
  held: { steps: ['held'], attempts: 1 },
})
await gateway.work('echo', async (job) => job.data as unknown)
const held = await leadWorker(gateway, 'held')

t.test('20 concurrent POSTs with one key make one job, which a worker sees once', async (t) => {
  const answers = await Promise.all(
    Array.from({ length: 20 }, () => gateway.post({ type: 'held' }, { 'idempotency-key': 'twenty' })),
  )
  const jobs = await Promise.all(answers.map(jobIn))
  t.equal(new Set(jobs.map((job) => job.job_id)).size, 1)
  t.ok(answers.every(({ status }) => status === 202))
  const replays = answers.filter(({ headers }) => headers.get('idempotent-replayed') === 'true')
  t.equal(replays.length, 19)
  const { jobs: listed } = (await (await get(gateway, '/jobs?type=held')).json()) as { jobs: unknown[] }
  t.equal(listed.length, 1)

  const attempt = await held.next()
  attempt.complete()
  const events = await ended(gateway, jobs[0]?.job_id ?? '')
  t.same(
    events.map(({ type }) => type),
    ['job.queued', 'step.started', 'job.completed'],
  )
  t.ok(held.isEmpty())
})

t.test('a replay shows the first job as it is by now: 202, and 200 once it has ended', async (t) => {
  const headers = { 'idempotency-key': 'by now' }
  const first = await jobIn(await gateway.post({ type: 'held', input: 1 }, headers))
  const attempt = await held.next()
  await attempt.job.updateProgress(50)
  await get(gateway, `${first.links.self}?after=2`, { prefer: 'wait=20' })

  const running = await gateway.post({ type: 'held', input: 1 }, headers)
  t.equal(running.status, 202)
  t.equal(running.headers.get('idempotent-replayed'), 'true')
  t.equal(running.headers.get('location'), first.links.self)
  t.equal(running.headers.get('x-correlation-id'), first.job_id)
  t.match(await jobIn(running), {
    job_id: first.job_id,
    status: 'running',
    progress: { percent: 50 },
    seq: 3,
  })

  attempt.complete('r')
  await ended(gateway, first.job_id)
  const done = await gateway.post({ type: 'held', input: 1 }, headers)
  t.equal(done.status, 200)
  t.equal(done.headers.get('idempotent-replayed'), 'true')
  t.notOk(done.headers.has('retry-after'))
  t.match(await jobIn(done), { job_id: first.job_id, status: 'completed', result: 'r' })
})

t.test('a replay is delivered in whatever way it asks for', async (t) => {
  const headers = { 'idempotency-key': 'ways' }
  const first = await jobIn(await gateway.post({ type: 'echo', input: 1 }, headers))

  const waited = await gateway.post({ type: 'echo', input: 1 }, { ...headers, prefer: 'wait=20' })
  t.equal(waited.status, 200)
  t.match(await jobIn(waited), { job_id: first.job_id, status: 'completed' })

  const streamed = await gateway.post({ type: 'echo', input: 1 }, { ...headers, accept: 'text/event-stream' })
  t.equal(streamed.headers.get('idempotent-replayed'), 'true')
  t.equal(streamed.headers.get('x-correlation-id'), first.job_id)
  const events = (await all(eventsIn(streamed))).map(parse)
  t.same(
    events.map(({ seq }) => seq),
    [1, 2, 3],
  )

  const socket = await openSocket(t, gateway.url)
  socket.send({ op: 'submit', ref: 1, job: { type: 'echo', input: 1 }, idempotency_key: 'ways' })
  t.match(await socket.frame(), { op: 'accepted', ref: 1, job: { job_id: first.job_id, seq: 3 } })
  t.match(await socket.frame(), { op: 'event', event: { seq: 1 } })
})

t.test('the key with another body is refused, on HTTP and on a WebSocket, and makes no job', async (t) => {
  const first = await gateway.post({ type: 'idle', input: { a: 1, b: 2 } }, { 'idempotency-key': 'other' })
  t.equal(first.status, 202)
  for (const body of [
    { type: 'idle', input: { a: 1, b: 3 } },
    { type: 'idle', input: { b: 2, a: 1 } },
    { type: 'idle', input: { a: 1, b: 2 }, priority: 1 },
    { type: 'held', input: { a: 1, b: 2 } },
  ])
    await isProblem(t, await gateway.post(body, { 'idempotency-key': 'other' }), 'idempotency_mismatch')
  const socket = await openSocket(t, gateway.url)
  socket.send({ op: 'submit', ref: 'r', job: { type: 'idle' }, idempotency_key: 'other' })
  t.match(await socket.frame(), { op: 'error', ref: 'r', problem: { code: 'idempotency_mismatch' } })
  const { jobs } = (await (await get(gateway, '/jobs?type=idle')).json()) as { jobs: unknown[] }
  t.equal(jobs.length, 1)
})

t.test('white space is no difference between two bodies', async (t) => {
  const post = (body: string) =>
    fetch(`${gateway.url}/jobs`, {
      method: 'POST',
      headers: { 'content-type': 'application/json', 'idempotency-key': 'space' },
      body,
    })
  const first = await jobIn(await post('{"type":"idle","input":[1]}'))
  const again = await post('{ "type": "idle",\n "input": [ 1 ] }')
  t.equal(again.headers.get('idempotent-replayed'), 'true')
  t.equal((await jobIn(again)).job_id, first.job_id)
})

t.test('another key, or none, makes another job', async (t) => {
  const ids = new Set<string>()
  for (const headers of [{ 'idempotency-key': 'one' }, { 'idempotency-key': 'two' }, {}, {}]) {
    const response = await gateway.post({ type: 'idle', input: 'same' }, headers)
    t.notOk(response.headers.has('idempotent-replayed'))
    ids.add((await jobIn(response)).job_id)
  }
  t.equal(ids.size, 4)
})

t.test('a key is 1 to 255 printable ASCII characters', async (t) => {
  const post = (key: string) => gateway.post({ type: 'idle', input: key.length }, { 'idempotency-key': key })
  t.equal((await post('k'.repeat(255))).status, 202)
  t.equal((await post('a key with spaces, and ~!"')).status, 202)
  for (const key of ['', 'k'.repeat(256), 'gr\u00fc\u00dfe', 'tab\tbed']) {
    await isProblem(t, await post(key), 'malformed_request')
  }
})
