import t, { type Test } from 'tap'
import { v7 as uuidv7 } from 'uuid'
import { problems } from '../../src/errors.ts'
import { createJudge } from '../document.ts'
import { startKeyedGateway, withKey } from '../keys.ts'
import type { TestGateway } from '../gateway.ts'
import {
  cancel,
  ended,
  get,
  leadWorker,
  openSocket,
  postText,
  startReceiver,
  submit,
  type Frame,
  type JobObject,
} from './clients.ts'
import { answersWith, endOfDelivery } from './delivery-calls.ts'
import { createHold } from './hold-to-document.ts'

/* What the gateway answers is what its documents say. */

const gateway = await startKeyedGateway(
  t,
  {
    echo: { steps: ['echo'], attempts: 1, journal_limit: 10 },
    led: { steps: ['led'], attempts: 2, backoff_ms: 1 },
    pair: { steps: ['echo', 'led'], attempts: 1 },
    idle: { steps: ['idle'], max_waiting: 1_000 },
    narrow: { steps: ['narrow'], max_waiting: 1 },
    picky: { steps: ['idle'], input: { type: 'object', required: ['n'] } },
  },
  { env: { QUARTET_CALLBACK_SCHEDULE: '1ms' } },
)
await gateway.work('echo', async (job) => job.data as unknown)
const attempts = await leadWorker(gateway, 'led')
const everything = await gateway.as()
const document = (await (await get(everything, '/openapi.json')).json()) as object
const { hold, judge, answers, codes } = createHold(document)

const answerTo = (answer: ReturnType<typeof answersWith>) => startReceiver(t, answer)

const call = (
  method: string,
  path: string,
  body?: unknown,
  who: Pick<TestGateway, 'url' | 'headers'> = everything,
) =>
  fetch(who.url + path, {
    method,
    headers: { ...who.headers, ...(body !== undefined && { 'content-type': 'application/json' }) },
    ...(body !== undefined && { body: JSON.stringify(body) }),
  })
/** Makes the call and holds its answer. */
const held = async (t: Test, method: string, path: string, body?: unknown) =>
  hold(t, await call(method, path, body), method)
const getHeld = async (t: Test, path: string, headers?: Record<string, string>) =>
  hold(t, await get(everything, path, headers), 'GET')
const postHeld = async (t: Test, body: unknown, headers?: Record<string, string>) =>
  (await hold(t, await everything.post(body, headers), 'POST')) as JobObject

const unknownId = uuidv7()

t.test('submitting', async (t) => {
  await postHeld(t, { type: 'idle', metadata: { customer: '42' } })
  await postHeld(t, { type: 'echo', input: { n: 1 } }, { prefer: 'wait=20', 'idempotency-key': 'k' })
  await postHeld(t, { type: 'echo', input: { n: 1 } }, { 'idempotency-key': 'k' })
  await postHeld(t, { type: 'echo', input: 2 }, { 'idempotency-key': 'k' })
  for (const accept of ['text/event-stream', 'application/x-ndjson', 'text/html']) {
    await postHeld(t, { type: 'echo', input: [1] }, { accept })
  }
  await postHeld(t, { type: 'picky', priority: -1, more: 1 })
  await postHeld(t, { type: 'narrow' })
  await postHeld(t, { type: 'narrow' })
  await hold(t, await postText(everything, '{'), 'POST')
  await hold(t, await postText(everything, '{}', 'text/plain'), 'POST')
  await hold(t, await postText(everything, 'x'.repeat(1_048_577)), 'POST')
  await postHeld(t, { type: 'idle' }, { origin: 'https://example.com' })
  await postHeld(t, { type: 'idle' }, { 'idempotency-key': 'ä' })
  await held(t, 'POST', '/jobs/batch', {
    jobs: [
      { type: 'echo', idempotency_key: 'b' },
      { type: 'echo', idempotency_key: 'b' },
      { type: 'nothing' },
      1,
    ],
  })
  await held(t, 'POST', '/jobs/batch', { jobs: [] })
})

t.test('whoever may not', async (t) => {
  const { url } = gateway
  await hold(t, await fetch(`${url}/jobs`), 'GET')
  await hold(t, await fetch(`${url}/openapi.json`, { headers: { authorization: 'Bearer qk_a_b' } }), 'GET')
  const narrow = await gateway.as({ scopes: ['jobs:write'], types: ['echo'] })
  await hold(t, await narrow.post({ type: 'idle' }), 'POST')
  await hold(t, await call('GET', '/jobs', undefined, narrow), 'GET')
  await hold(t, await call('GET', '/metrics', undefined, narrow), 'GET')
})

t.test('polling, results and lists', async (t) => {
  const { job_id: id } = await postHeld(t, { type: 'led', input: 1 })
  await getHeld(t, `/jobs/${id}`)
  await getHeld(t, `/jobs/${id}/result`)
  const first = await attempts.next()
  await first.job.updateProgress({ percent: 40, message: 'charging', output: 'a' })
  const { seq } = (await getHeld(t, `/jobs/${id}?after=2`, { prefer: 'wait=20' })) as JobObject
  await getHeld(t, `/jobs/${id}`, { 'if-none-match': '*' })
  await getHeld(t, `/jobs/${id}?after=x`)
  first.fail('once')
  const second = await attempts.next()
  second.fail(JSON.stringify({ title: 'Declined', status: 402, balance: 3 }))
  await getHeld(t, `/jobs/${id}/events?after=${seq}`)
  await getHeld(t, `/jobs/${id}/result`)
  t.match(await getHeld(t, `/jobs/${id}`), { error: { code: 'step_failed', problem: { balance: 3 } } })
  const { job_id: done } = await postHeld(t, { type: 'echo', input: 'x' }, { prefer: 'wait=20' })
  t.equal(await getHeld(t, `/jobs/${done}/result`), 'x')
  await postHeld(t, { type: 'idle', deadline_ms: 1 }, { prefer: 'wait=20' })
  t.match(await getHeld(t, '/jobs?limit=3'), { jobs: { length: 3 } })
  await getHeld(t, '/jobs?limit=0')
  for (const path of ['', '/result', '/events']) await getHeld(t, `/jobs/${unknownId}${path}`)
  await getHeld(t, `/jobs/${'x'.repeat(200)}`)
})

t.test('events', async (t) => {
  const { job_id: id } = await postHeld(t, { type: 'pair', input: 1 })
  const attempt = await attempts.next()
  await getHeld(t, `/jobs/${id}/events`, { accept: 'application/json' })
  await getHeld(t, `/jobs/${id}/events?after=99`)
  attempt.complete({ n: 1 })
  for (const accept of ['text/event-stream', 'application/x-ndjson', 'application/json', 'text/html']) {
    await getHeld(t, `/jobs/${id}/events`, { accept })
  }
  await getHeld(t, `/jobs/${id}/events?after=99`)
  await getHeld(t, `/jobs/${id}/events?after=x`)

  const { job_id: chatty } = await postHeld(t, { type: 'led' })
  const talking = await attempts.next()
  for (let n = 1; n <= 20; n++) await talking.job.updateProgress(n)
  talking.complete()
  await ended(everything, chatty)
  await getHeld(t, `/jobs/${chatty}/events`, { accept: 'application/json' })
})

t.test('what changes a job', async (t) => {
  const waiting = await submit(everything, { type: 'idle' })
  await hold(t, await cancel(everything, waiting.job_id), 'POST')
  const { job_id: id } = await submit(everything, { type: 'led' })
  const attempt = await attempts.next()
  await hold(t, await cancel(everything, id), 'POST')
  attempt.fail('stopped')
  t.match(await ended(everything, id), [{}, {}, { type: 'job.canceling' }, { type: 'job.canceled' }])
  const { job_id: done } = await postHeld(t, { type: 'echo' }, { prefer: 'wait=20' })
  await hold(t, await cancel(everything, done), 'POST')
  await hold(t, await cancel(everything, unknownId), 'POST')
  await held(t, 'PUT', `/jobs/${waiting.job_id}/callback`, { callback_url: 'http://10.0.0.1/' })
  await held(t, 'PUT', `/jobs/${waiting.job_id}/callback`, { callback_url: 'http://127.0.0.1:9/', after: 99 })

  const { token } = (await held(t, 'POST', `/jobs/${done}/tokens`)) as { token: string }
  await held(t, 'POST', `/jobs/${done}/tokens`, { ttl_s: 0 })
  const reader = withKey(gateway, token)
  await hold(t, await fetch(`${gateway.url}/jobs/${done}?token=${token}`), 'GET')
  await hold(t, await fetch(`${gateway.url}/jobs/${id}?token=${token}`), 'GET')
  await hold(t, await get(reader, `/jobs/${done}/result`), 'GET')
  await hold(t, await get(reader, `/jobs/${done}/events`), 'GET')
  await hold(t, await get(reader, `/jobs/${done}/events?after=99`), 'GET')
})

t.test('webhooks, and what became of them', async (t) => {
  const answer = answersWith(500)
  const receiver = await answerTo(answer)
  const { origin } = new URL(receiver.url)
  const { job_id: id } = await submit(everything, { type: 'echo', input: 1, callback_url: receiver.url })
  const { headers, body } = await receiver.next()
  const place = '/webhooks/jobEvent/post'
  t.strictSame(judge(`${place}/requestBody/content/application~1json/schema`, JSON.parse(body)), [])
  for (const [at, name] of ['webhook-id', 'webhook-timestamp', 'webhook-signature'].entries()) {
    t.strictSame(judge(`${place}/parameters/${at}/schema`, headers[name]), [], name)
  }
  const { status } = await endOfDelivery(everything, id, 3)
  t.equal(status, 'dead')
  await getHeld(t, `/jobs/${id}/deliveries`)
  await getHeld(t, `/deliveries?status=dead&origin=${origin}`)
  await getHeld(t, '/deliveries')
  answer.status = 204
  await held(t, 'POST', `/jobs/${id}/deliveries/3/redeliver`)
  await endOfDelivery(everything, id, 3)
  await held(t, 'PUT', `/jobs/${id}/callback`, { callback_url: receiver.url, callback_events: ['*'] })
  await held(t, 'POST', `/jobs/${id}/deliveries/99/redeliver`)
  const { job_id: without } = await submit(everything, { type: 'echo' })
  await held(t, 'POST', `/jobs/${without}/deliveries/1/redeliver`)
  await held(t, 'POST', '/deliveries/redeliver', { origin })
  await held(t, 'POST', '/deliveries/redeliver', {})
  await getHeld(t, `/jobs/${unknownId}/deliveries`)
})

t.test('the gateway itself', async (t) => {
  for (const path of ['/livez', '/readyz', '/metrics', '/openapi.json', '/asyncapi.json', '/docs', '/ws']) {
    await getHeld(t, path)
  }
  for (const file of [
    'swagger-ui.css',
    'swagger-ui-bundle.js',
    'favicon-32x32.png',
    'start.js',
    'index.html',
  ]) {
    await getHeld(t, `/docs/${file}`)
  }
})

t.test('nothing that is in the document was left out here', async (t) => {
  const { paths } = document as {
    paths: Record<string, Record<string, { responses: Record<string, object> }>>
  }
  const good = Object.entries(paths).flatMap(([path, item]) =>
    Object.entries(item).flatMap(([method, { responses }]) =>
      Object.keys(responses)
        .filter((status) => Number(status) < 400)
        .map((status) => `${method.toUpperCase()} ${path} ${status}`),
    ),
  )
  t.same(
    good.filter((answer) => !answers.has(answer)),
    ['GET /ws 101'],
  )
  // Those of jobs, of what cannot be read, of limits and of a gateway that is not well have tests of their own.
  const isHere = (status: number) => status < 500 && ![408, 429, 431].includes(status)
  const expected = Object.entries(problems).flatMap(([code, { status }]) => (isHere(status) ? [code] : []))
  t.same([...codes].toSorted(), [...expected, 'queue_full'].toSorted())
})

t.test('the frames of a WebSocket are those of its document', async (t) => {
  const asyncapi = (await (await fetch(`${gateway.url}/asyncapi.json`)).json()) as object
  const judgeFrame = createJudge(asyncapi)
  const seen = new Set<string>()
  const holdFrame = (frame: Frame) => {
    seen.add(frame.op)
    t.strictSame(judgeFrame(`/components/messages/${frame.op}/payload`, frame), [], frame.op)
    return frame
  }
  const { send, frame, closed } = await openSocket(t, gateway.url, { init: false })
  const ask = async (message: Frame | object) => {
    holdFrame(message as Frame)
    send(message)
    return holdFrame(await frame())
  }
  const authorization = everything.headers['authorization'] ?? ''
  t.match(await ask({ op: 'init', token: authorization.replace('Bearer ', '') }), { op: 'ready' })
  t.match(await ask({ op: 'ping' }), { op: 'pong' })
  const { job } = await ask({ op: 'submit', ref: 1, job: { type: 'echo', input: 1 } })
  while (holdFrame(await frame()).op !== 'end');
  const job_id = job?.job_id ?? ''
  t.match(await ask({ op: 'subscribe', ref: 'a', job_id, after: 0 }), { op: 'subscribed' })
  while (holdFrame(await frame()).op !== 'end');
  t.match(await ask({ op: 'unsubscribe', ref: 2, job_id }), { op: 'done' })
  t.match(await ask({ op: 'cancel', ref: 3, job_id }), { op: 'error', problem: { code: 'already_finished' } })
  const { channels } = asyncapi as { channels: { socket: { messages: object; 'x-closes': object } } }
  t.same([...seen].toSorted(), Object.keys(channels.socket.messages).toSorted(), 'all of them')
  send({ op: 'nothing' })
  t.ok(String(await closed) in channels.socket['x-closes'])
})
