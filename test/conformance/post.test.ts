import t from 'tap'
import { startGateway } from '../gateway.ts'
import {
  all,
  ended,
  eventsIn,
  exchange,
  get,
  isoTime,
  isProblem,
  jobIn,
  leadWorker,
  parse,
  submit,
} from './clients.ts'

const gateway = await startGateway(t, {
  echo: { steps: ['echo'], attempts: 1 },
  route: { steps: ['first', 'second'], attempts: 1 },
  idle: { steps: ['idle'] },
  held: { steps: ['held'], attempts: 1 },
})
await gateway.work('echo', async (job) => job.data as unknown)
const held = await leadWorker(gateway, 'held')

t.test('a POST is answered at once with 202, the whole job, and where to find it', async (t) => {
  const response = await gateway.post({ type: 'idle', input: { a: 1 }, metadata: { customer: '42' } })
  t.equal(response.status, 202)
  t.match(response.headers.get('content-type'), /^application\/json/)
  const job = await jobIn(response)
  t.match(job.job_id, /^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/)
  t.match(job.created_at, isoTime)
  const self = `/jobs/${job.job_id}`
  t.strictSame(job, {
    job_id: job.job_id,
    type: 'idle',
    status: 'queued',
    step: { name: 'idle', index: 0, count: 1, attempt: 0 },
    progress: null,
    result: null,
    error: null,
    seq: 1,
    metadata: { customer: '42' },
    created_at: job.created_at,
    started_at: null,
    finished_at: null,
    expires_at: null,
    links: { self, events: `${self}/events`, cancel: `${self}/cancel` },
  })
  t.equal(response.headers.get('location'), self)
  t.equal(response.headers.get('x-correlation-id'), job.job_id)
  t.equal(response.headers.get('retry-after'), '1')
  t.equal(response.headers.get('etag'), '"1"')
  t.notOk(response.headers.has('preference-applied'))
  t.notOk(response.headers.has('idempotent-replayed'))
})

t.test(
  'the job id is the BullMQ id in every queue, and a step is given the result of the one before',
  async (t) => {
    const [first, second] = await Promise.all([leadWorker(gateway, 'first'), leadWorker(gateway, 'second')])
    const { job_id: id } = await submit(gateway, {
      type: 'route',
      input: { n: 1 },
      metadata: { m: 'no worker sees this' },
      priority: 7,
    })
    const one = await first.next()
    t.match(one.job, { id, name: 'route', data: { n: 1 }, opts: { priority: 7 } })
    one.complete({ n: 2 })
    const two = await second.next()
    t.match(two.job, { id, name: 'route', data: { n: 2 }, opts: { priority: 7 } })
    t.notMatch(JSON.stringify([one.job.data, one.job.opts]), /no worker sees this/)
    two.complete({ n: 3 })
    t.match((await ended(gateway, id)).at(-1), {
      data: { result: { n: 3 }, step: { name: 'second', index: 1, count: 2 } },
    })
  },
)

t.test('without an input the first step is given null', async (t) => {
  const { job_id: id } = await submit(gateway, { type: 'held' })
  const attempt = await held.next()
  t.equal(attempt.job.data, null)
  attempt.complete()
  t.match((await ended(gateway, id)).at(-1), { type: 'job.completed', data: { result: null } })
})

t.test('Prefer: wait holds the answer until the job has ended: then it is 200', async (t) => {
  const response = await gateway.post({ type: 'echo', input: 'hello' }, { prefer: 'wait=30' })
  t.equal(response.status, 200)
  t.equal(response.headers.get('preference-applied'), 'wait=30')
  t.notOk(response.headers.has('retry-after'))
  const job = await jobIn(response)
  t.match(job, { status: 'completed', result: 'hello', finished_at: isoTime, expires_at: isoTime })
  t.equal(response.headers.get('location'), job.links.self)
  t.equal(response.headers.get('x-correlation-id'), job.job_id)
  t.equal(response.headers.get('etag'), `"${job.seq}"`)
})

t.test('a job that has not ended when the wait is over is answered with 202 as it is', async (t) => {
  const answer = gateway.post({ type: 'held' }, { prefer: 'respond-async, wait=1' })
  const attempt = await held.next()
  const response = await answer
  t.equal(response.status, 202)
  t.equal(response.headers.get('preference-applied'), 'wait=1')
  t.equal(response.headers.get('retry-after'), '1')
  t.match(await jobIn(response), { status: 'running', result: null })
  attempt.complete()
})

t.test('a wait is at most 60 seconds, and ignored if it is no whole number', async (t) => {
  const long = await gateway.post({ type: 'echo' }, { prefer: 'wait=3600' })
  t.equal(long.status, 200)
  t.equal(long.headers.get('preference-applied'), 'wait=60')
  for (const prefer of ['wait=soon', 'wait=-1', 'wait', 'waiting=5']) {
    const response = await gateway.post({ type: 'idle' }, { prefer })
    t.equal(response.status, 202, prefer)
    t.notOk(response.headers.has('preference-applied'), prefer)
  }
})

for (const accept of ['text/event-stream', 'application/x-ndjson']) {
  t.test(`the events from the first on are the answer to a POST that accepts ${accept}`, async (t) => {
    const response = await gateway.post({ type: 'echo', input: 5 }, { accept, prefer: 'wait=5' })
    t.equal(response.status, 200)
    t.match(response.headers.get('content-type'), new RegExp(`^${accept}`))
    t.notOk(response.headers.has('preference-applied'))
    const id = response.headers.get('x-correlation-id') ?? ''
    t.equal(response.headers.get('location'), `/jobs/${id}`)
    const texts = await all(eventsIn(response))
    t.match(texts.map(parse), [
      { seq: 1, type: 'job.queued', job_id: id },
      { seq: 2, type: 'step.started' },
      { seq: 3, type: 'job.completed', data: { result: 5 } },
    ])
    t.strictSame(texts, await all(eventsIn(await get(gateway, `/jobs/${id}/events`))))
  })
}

t.test('hanging up on the stream, or on a held answer, never cancels the job', async (t) => {
  const hangUp = new AbortController()
  const post = (headers: Record<string, string>) =>
    fetch(`${gateway.url}/jobs`, {
      method: 'POST',
      headers: { 'content-type': 'application/json', ...headers },
      body: '{"type":"held"}',
      signal: hangUp.signal,
    })
  const stream = await post({ accept: 'text/event-stream' })
  const streamed = await held.next()
  const answer = post({ prefer: 'wait=60' })
  const waited = await held.next()
  hangUp.abort()
  await t.rejects(answer)
  await t.rejects(stream.text())
  for (const attempt of [streamed, waited]) {
    attempt.complete('done')
    const last = (await ended(gateway, attempt.job.id ?? '')).at(-1)
    t.match(last, { type: 'job.completed', data: { result: 'done' } })
  }
})

t.test('the answer to a POST is the job unless a stream is preferred', async (t) => {
  const preferences = {
    '*/*': 'application/json',
    'application/*': 'application/json',
    'application/json, text/event-stream': 'application/json',
    'text/event-stream, */*;q=0.1': 'text/event-stream',
    'text/event-stream;q=0.5, application/json;q=0.4': 'text/event-stream',
    'application/json;q=0.4, application/x-ndjson;q=0.5': 'application/x-ndjson',
    'text/event-stream;q=0, application/json;q=0.1': 'application/json',
    'text/html, application/json;q=0.9': 'application/json',
  }
  for (const [accept, expected] of Object.entries(preferences)) {
    const response = await gateway.post({ type: 'echo' }, { accept })
    t.equal(response.headers.get('content-type')?.split(';')[0], expected, accept)
    await response.body?.cancel()
  }
  const body = '{"type":"echo"}'
  const bare = await exchange(
    gateway.url,
    `POST /jobs HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n` +
      `content-length: ${body.length}\r\n\r\n${body}`,
  )
  t.match(bare, /^HTTP\/1\.1 202 /)
  t.match(bare, /\r\ncontent-type: application\/json/)
})

t.test('what cannot be produced is 406, and makes no job', async (t) => {
  const count = async () =>
    ((await (await get(gateway, '/jobs?limit=200')).json()) as { jobs: [] }).jobs.length
  const before = await count()
  for (const accept of ['text/html', 'application/xml', 'application/json;q=0', 'image/*'])
    await isProblem(t, await gateway.post({ type: 'echo' }, { accept }), 'not_acceptable')
  t.equal(await count(), before)
})
