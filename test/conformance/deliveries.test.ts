import { randomUUID } from 'node:crypto'
import t, { type Test } from 'tap'
import { startGateway, type TestGateway } from '../gateway.ts'
import { startRedis } from '../helper.ts'
import { get, isoTime, isProblem, parse, putCallback, startReceiver, submit } from './clients.ts'
import {
  answersWith,
  deliveriesOf,
  deliveryWhen,
  endOfDelivery,
  holdsAnswers,
  redeliver,
  waitOfDelivery,
} from './delivery-calls.ts'

const HOUR_MS = 3_600_000
const types = { echo: { steps: ['echo'], attempts: 1 }, idle: { steps: ['idle'] } }

/** Three tries, soon after each other. */
const gateway = await startGateway(t, types, { env: { QUARTET_CALLBACK_SCHEDULE: '50ms,50ms' } })
await gateway.work('echo', async () => null)
/** A second try is so far away that it does not come by itself. */
const patient = await startGateway(t, types, { env: { QUARTET_CALLBACK_SCHEDULE: '1h' } })

/** A job that waits for ever, whose acceptance is delivered. */
const submitTo = async (to: TestGateway, url: string) =>
  (await submit(to, { type: 'idle', callback_url: url, callback_events: ['job.queued'] })).job_id

t.test('deliveries are shown in the order of seq, each with its tries', async (t) => {
  const receiver = await startReceiver(t, answersWith(201))
  const job = { type: 'echo', callback_url: receiver.url, callback_events: ['*'] }
  const { job_id: id } = await submit(gateway, job)
  await endOfDelivery(gateway, id, 3)
  const made = {
    at: isoTime,
    duration_ms: Number,
    outcome: 'delivered',
    status_code: 201,
    reason: null,
    error: null,
    redelivery: false,
  }
  const shown = await deliveriesOf(gateway, id)
  t.matchOnlyStrict(shown, {
    origin: new URL(receiver.url).origin,
    gone: false,
    circuit: 'closed',
    circuit_open_until: null,
    deliveries: ['job.queued', 'step.started', 'job.completed'].map((type, index) => ({
      seq: index + 1,
      webhook_id: `${id}.${index + 1}`,
      type,
      status: 'delivered',
      next_try_at: null,
      tries: [made],
    })),
  })
  t.ok(shown.deliveries.every(({ tries }) => Number.isInteger(tries[0]?.duration_ms)))
})

t.test('a pending delivery tells when it is tried next, and how the last try ended', async (t) => {
  const receiver = await startReceiver(t, answersWith(500))
  const id = await submitTo(patient, receiver.url)
  const { next_try_at: next, ...delivery } = await waitOfDelivery(patient, id, 1)
  t.matchOnlyStrict(delivery, {
    seq: 1,
    webhook_id: `${id}.1`,
    type: 'job.queued',
    status: 'pending',
    tries: [
      {
        at: isoTime,
        duration_ms: Number,
        outcome: 'failed',
        status_code: 500,
        reason: 'http_status',
        error: 'Expected a 2xx status, got 500',
        redelivery: false,
      },
    ],
  })
  t.match(next, isoTime)
  const wait = Date.parse(next ?? '') - Date.parse(delivery.tries[0]?.at ?? '')
  t.ok(wait >= 0.8 * HOUR_MS && wait <= 1.2 * HOUR_MS + 15_000, `${wait} ms, an hour ± 20 %`)
})

t.test('while a try is under way it is not known when the next one is', async (t) => {
  const answers = holdsAnswers()
  const receiver = await startReceiver(t, answers)
  const id = await submitTo(patient, receiver.url)
  const first = await answers.next()
  t.strictSame((await deliveriesOf(patient, id)).deliveries, [
    {
      seq: 1,
      webhook_id: `${id}.1`,
      type: 'job.queued',
      status: 'pending',
      next_try_at: null,
      tries: [],
    },
  ])
  first(500)
  await waitOfDelivery(patient, id, 1)
  await redeliver(patient, id, 1)
  const second = await answers.next()
  t.match((await deliveriesOf(patient, id)).deliveries, [
    { status: 'pending', next_try_at: null, tries: [{}] },
  ])
  second(204)
})

t.test('a delivery is dead after its last try', async (t) => {
  const receiver = await startReceiver(t, answersWith(404))
  const id = await submitTo(gateway, receiver.url)
  const { status, next_try_at: next, tries } = await endOfDelivery(gateway, id, 1)
  t.strictSame({ status, next }, { status: 'dead', next: null })
  t.match(
    tries,
    ['failed', 'failed', 'dead'].map((outcome) => ({
      outcome,
      status_code: 404,
      reason: 'http_status',
      redelivery: false,
    })),
  )
  const times = tries.map(({ at }) => at)
  t.strictSame(times, times.toSorted())
})

t.test('an event waits for the one before until that is delivered or given up', async (t) => {
  const receiver = await startReceiver(t, (response, { body }) => {
    response.writeHead(parse(body).type === 'step.started' ? 404 : 204).end()
  })
  const { job_id: id } = await submit(gateway, {
    type: 'echo',
    callback_url: receiver.url,
    callback_events: ['*'],
  })
  await endOfDelivery(gateway, id, 3)
  t.match(await deliveriesOf(gateway, id), {
    deliveries: [{ status: 'delivered' }, { status: 'dead', tries: { length: 3 } }, { status: 'delivered' }],
  })
  const came = []
  for (let nth = 1; nth <= 5; nth++) came.push(parse((await receiver.next()).body).seq)
  t.same(came, [1, 2, 2, 2, 3])
})

t.test('410 makes a delivery dead at once, and the return address is gone', async (t) => {
  const receiver = await startReceiver(t, answersWith(410))
  const id = await submitTo(gateway, receiver.url)
  const { status, tries } = await endOfDelivery(gateway, id, 1)
  t.match(
    { status, tries },
    { status: 'dead', tries: [{ outcome: 'dead', status_code: 410, reason: 'gone' }] },
  )
  t.equal((await deliveriesOf(gateway, id)).gone, true)
})

t.test('a delivery is void if the return address was changed before it came to an end', async (t) => {
  const old = await startReceiver(t, answersWith(500))
  const id = await submitTo(patient, old.url)
  await waitOfDelivery(patient, id, 1)
  const receiver = await startReceiver(t)
  const response = await putCallback(patient, id, { callback_url: receiver.url, after: 1 })
  t.equal(response.status, 200)
  t.match(await deliveriesOf(patient, id), {
    origin: new URL(receiver.url).origin,
    deliveries: [
      { seq: 1, status: 'void', next_try_at: null, tries: [{ outcome: 'failed', status_code: 500 }] },
    ],
  })
})

t.test('nothing of what a receiver answers is shown but its status', async (t) => {
  for (const [to, status] of [
    [gateway, 200],
    [gateway, 302],
    [gateway, 410],
    [patient, 500],
  ] as const) {
    const headers = { 'x-secret': 'hunter2', location: 'http://169.254.169.254/hunter2' }
    const receiver = await startReceiver(t, answersWith(status, headers, 'hunter2'))
    const id = await submitTo(to, receiver.url)
    await deliveryWhen(to, id, 1, ({ tries }) => tries.length > 0)
    const text = await (await get(to, `/jobs/${id}/deliveries`)).text()
    t.match(text, `"status_code":${status}`)
    t.notMatch(text, /hunter2|169\.254/)
    t.notMatch(text, '/hook', 'nor is the return address')
  }
})

t.test('a job without a return address has no deliveries', async (t) => {
  const { job_id: id } = await submit(gateway, { type: 'idle' })
  t.strictSame(await deliveriesOf(gateway, id), {
    origin: null,
    gone: false,
    circuit: 'closed',
    circuit_open_until: null,
    deliveries: [],
  })
})

t.test('an id that is unknown, or none, is not found', async (t) => {
  for (const id of ['01a2070d-1975-74f5-aaa4-55f9917c2231', randomUUID(), 'nonsense', '%00']) {
    await isProblem(t, await get(gateway, `/jobs/${id}/deliveries`), 'not_found')
  }
})

t.test('after ten failures in a row an origin is left alone, until a redelivery succeeds', async (t) => {
  const answer = answersWith(500)
  const receiver = await startReceiver(t, answer)
  const ids = await Promise.all(Array.from({ length: 10 }, () => submitTo(patient, receiver.url)))
  await Promise.all(ids.map((id) => waitOfDelivery(patient, id, 1)))
  const waiting = await submitTo(patient, receiver.url)
  const { circuit, circuit_open_until: until, deliveries } = await deliveriesOf(patient, waiting)
  t.equal(circuit, 'open')
  t.match(until, isoTime)
  t.match(deliveries, [{ status: 'pending', next_try_at: until, tries: [] }])
  for (const _ of ids) await receiver.next()
  t.ok(receiver.isQuiet())
  const openCircuit = `quartet_callback_circuit_open{origin="${new URL(receiver.url).origin}"} 1`
  t.match(await metricsOf(patient), openCircuit)

  answer.status = 204
  await isScheduled(t, ids[0] ?? '')
  t.match(await endOfDelivery(patient, ids[0] ?? '', 1), { status: 'delivered' })
  t.match(await endOfDelivery(patient, waiting, 1), { status: 'delivered', tries: [{ status_code: 204 }] })
  t.match(await deliveriesOf(patient, waiting), { circuit: 'closed', circuit_open_until: null })
  t.notMatch(await metricsOf(patient), openCircuit)
})

t.test('what is tried and what is given up is counted', async (t) => {
  const node = await startGateway(t, types)
  const answer = answersWith(204)
  const receiver = await startReceiver(t, answer)
  for (const status of [204, 410, 500]) {
    answer.status = status
    const id = await submitTo(node, receiver.url)
    await deliveryWhen(node, id, 1, ({ tries }) => tries.length === 1)
  }
  const metrics = await metricsOf(node)
  for (const outcome of ['delivered', 'dead', 'failed']) {
    t.match(metrics, `quartet_callback_tries_total{outcome="${outcome}"} 1`)
  }
  t.match(metrics, 'quartet_callback_dead_letters_total 1')
})

t.test(
  'a try under which its gateway is shut down is recorded, and made again by another at once',
  async (t) => {
    const redis = await startRedis(t)
    const front = await startGateway(t, types, { redis, env: { QUARTET_ROLES: 'http,collect' } })
    const env = { QUARTET_ROLES: 'callbacks', QUARTET_WEBHOOK_SECRET: front.secret }
    const leaving = await startGateway(t, types, { redis, env })
    const answers = holdsAnswers()
    const receiver = await startReceiver(t, answers)
    const id = await submitTo(front, receiver.url)
    await answers.next()
    await startGateway(t, types, { redis, env })
    await leaving.app.close()
    ;(await answers.next())(204)
    t.match(await endOfDelivery(front, id, 1), {
      status: 'delivered',
      tries: [
        { outcome: 'failed', status_code: null, reason: 'closing', redelivery: false },
        { outcome: 'delivered', status_code: 204 },
      ],
    })
  },
)

const metricsOf = async (node: TestGateway) => (await get(node, '/metrics')).text()

async function isScheduled(t: Test, id: string): Promise<void> {
  const response = await redeliver(patient, id, 1)
  t.equal(response.status, 202)
  t.strictSame(await response.json(), { webhook_id: `${id}.1`, status: 'scheduled' })
}
