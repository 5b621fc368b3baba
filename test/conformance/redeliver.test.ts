import { randomUUID } from 'node:crypto'
import t, { type Test } from 'tap'
import { startGateway, type TestGateway } from '../gateway.ts'
import { ended, isProblem, parse, startReceiver, submit } from './clients.ts'
import {
  answersWith,
  deliveriesOf,
  deliveryWhen,
  endOfDelivery,
  holdsAnswers,
  isListed,
  redeliver,
  waitOfDelivery,
} from './delivery-calls.ts'

const types = { echo: { steps: ['echo'], attempts: 1 }, idle: { steps: ['idle'] } }

/** Three tries, soon after each other. */
const gateway = await startGateway(t, types, { env: { QUARTET_CALLBACK_SCHEDULE: '50ms,50ms' } })
await gateway.work('echo', async () => null)
/** Two tries, and the second is so far away that it does not come by itself. */
const patient = await startGateway(t, types, { env: { QUARTET_CALLBACK_SCHEDULE: '1h' } })

const submitTo = async (to: TestGateway, url: string) =>
  (await submit(to, { type: 'idle', callback_url: url, callback_events: ['job.queued'] })).job_id

/** Redelivers event 1 of a job, and asserts what the answer says. */
async function isTaken(t: Test, to: TestGateway, id: string, status = 'scheduled'): Promise<void> {
  const response = await redeliver(to, id, 1)
  t.equal(response.status, 202)
  t.strictSame(await response.json(), { webhook_id: `${id}.1`, status })
}

t.test('a dead letter is delivered under the same id, and is none any more', async (t) => {
  const answer = answersWith(404)
  const receiver = await startReceiver(t, answer)
  const id = await submitTo(gateway, receiver.url)
  await endOfDelivery(gateway, id, 1)
  const tries = [await receiver.next(), await receiver.next(), await receiver.next()]
  t.ok(await isListed(gateway, id, 1))

  answer.status = 204
  await isTaken(t, gateway, id)
  tries.push(await receiver.next())
  t.match(await endOfDelivery(gateway, id, 1), {
    status: 'delivered',
    tries: [{}, {}, { outcome: 'dead' }, { outcome: 'delivered', status_code: 204, redelivery: true }],
  })
  t.notOk(await isListed(gateway, id, 1))
  t.same([...new Set(tries.map(({ headers }) => headers['webhook-id']))], [`${id}.1`])
  t.same(new Set(tries.map(({ body }) => body)).size, 1, 'the same bytes')
  t.ok(receiver.isQuiet())
})

t.test('a dead letter whose redelivery fails is dead again after that one try', async (t) => {
  const answers = holdsAnswers()
  const receiver = await startReceiver(t, answers)
  const id = await submitTo(gateway, receiver.url)
  for (let nth = 1; nth <= 3; nth++) (await answers.next())(404)
  await endOfDelivery(gateway, id, 1)
  await isTaken(t, gateway, id)
  const answer = await answers.next()
  t.notOk(await isListed(gateway, id, 1), 'it is none while it is under way')
  answer(404)
  const { status, tries } = await endOfDelivery(gateway, id, 1)
  t.equal(status, 'dead')
  t.match(tries.slice(3), [{ outcome: 'dead', status_code: 404, redelivery: true }])
  t.equal(tries.length, 4)
  t.ok(await isListed(gateway, id, 1))
  await isTaken(t, gateway, id)
  ;(await answers.next())(204)
  t.match(await endOfDelivery(gateway, id, 1), { status: 'delivered' })
})

t.test('a pending delivery is tried now, and that is one of its tries', async (t) => {
  const receiver = await startReceiver(t, answersWith(404))
  const id = await submitTo(patient, receiver.url)
  await waitOfDelivery(patient, id, 1)
  await isTaken(t, patient, id)
  t.match(await endOfDelivery(patient, id, 1), {
    status: 'dead',
    tries: [
      { outcome: 'failed', redelivery: false },
      { outcome: 'dead', redelivery: false },
    ],
  })
})

t.test('a try that is under way is not made twice', async (t) => {
  const answers = holdsAnswers()
  const receiver = await startReceiver(t, answers)
  const id = await submitTo(patient, receiver.url)
  const first = await answers.next()
  for (let nth = 1; nth <= 5; nth++) await isTaken(t, patient, id, 'under_way')
  first(204)
  t.match(await endOfDelivery(patient, id, 1), { status: 'delivered', tries: [{ outcome: 'delivered' }] })

  await isTaken(t, patient, id)
  const again = await answers.next()
  for (let nth = 1; nth <= 5; nth++) await isTaken(t, patient, id, 'under_way')
  again(204)
  t.match(await endOfDelivery(patient, id, 1), { tries: [{ redelivery: false }, { redelivery: true }] })
  await receiver.next()
  await receiver.next()
  t.ok(receiver.isQuiet())
})

t.test('however many ask at the same time for a delivery that waits, it is one request', async (t) => {
  const answers = holdsAnswers()
  const receiver = await startReceiver(t, answers)
  const id = await submitTo(patient, receiver.url)
  ;(await answers.next())(500)
  await waitOfDelivery(patient, id, 1)
  const responses = await Promise.all(Array.from({ length: 10 }, () => redeliver(patient, id, 1)))
  t.ok(responses.every(({ status }) => status === 202))
  const answer = await answers.next()
  await isTaken(t, patient, id, 'under_way')
  answer(204)
  t.match(await endOfDelivery(patient, id, 1), { status: 'delivered', tries: [{}, { outcome: 'delivered' }] })
  await receiver.next()
  await receiver.next()
  t.ok(receiver.isQuiet())
})

t.test('a delivered event comes once more, and stays delivered whatever the answer', async (t) => {
  const answer = answersWith(204)
  const receiver = await startReceiver(t, answer)
  const id = await submitTo(gateway, receiver.url)
  await endOfDelivery(gateway, id, 1)
  for (const [made, status, outcome] of [
    [2, 500, 'dead'],
    [3, 410, 'dead'],
    [4, 200, 'delivered'],
  ] as const) {
    answer.status = status
    await isTaken(t, gateway, id)
    const delivery = await deliveryWhen(
      gateway,
      id,
      1,
      (found) => found.tries.length === made && found.status !== 'pending',
    )
    t.equal(delivery.status, 'delivered')
    t.match(delivery.tries.at(-1), { outcome, status_code: status, redelivery: true })
    t.notOk(await isListed(gateway, id, 1))
  }
  for (let nth = 1; nth <= 4; nth++) {
    t.equal((await receiver.next()).headers['webhook-id'], `${id}.1`)
  }
  t.ok(receiver.isQuiet())
})

t.test('several events that are redelivered come one at a time, each once', async (t) => {
  const receiver = await startReceiver(t)
  const { job_id: id } = await submit(gateway, {
    type: 'echo',
    callback_url: receiver.url,
    callback_events: ['*'],
  })
  await endOfDelivery(gateway, id, 3)
  for (let seq = 1; seq <= 3; seq++) t.equal(parse((await receiver.next()).body).seq, seq)
  for (const seq of [3, 1, 2]) t.equal((await redeliver(gateway, id, seq)).status, 202)
  const came = []
  for (let nth = 1; nth <= 3; nth++) came.push(parse((await receiver.next()).body).seq)
  t.same(came, [3, 1, 2])
  for (let seq = 1; seq <= 3; seq++) {
    t.match(await endOfDelivery(gateway, id, seq), { status: 'delivered', tries: [{}, { redelivery: true }] })
  }
  t.ok(receiver.isQuiet())
})

t.test('one that waits while another event of the job is redelivered has its turn next', async (t) => {
  const answers = holdsAnswers()
  const receiver = await startReceiver(t, answers)
  const { job_id: id } = await submit(patient, {
    type: 'idle',
    callback_url: receiver.url,
    callback_events: ['*'],
  })
  ;(await answers.next())(204)
  await fetch(`${patient.url}/jobs/${id}/cancel`, { method: 'POST' })
  ;(await answers.next())(500)
  await waitOfDelivery(patient, id, 2)
  await isTaken(t, patient, id)
  const again = await answers.next()
  t.equal((await redeliver(patient, id, 2)).status, 202)
  again(204)
  ;(await answers.next())(204)
  t.match(await endOfDelivery(patient, id, 2), { status: 'delivered', tries: [{}, { redelivery: false }] })
  const came = []
  for (let nth = 1; nth <= 4; nth++) came.push(parse((await receiver.next()).body).seq)
  t.same(came, [1, 2, 1, 2])
})

t.test('a circuit that is open lets through what was asked for, and not what waits', async (t) => {
  let wanted = ''
  const receiver = await startReceiver(t, (response, { body }) => {
    response.writeHead(parse(body).job_id === wanted ? 204 : 500).end()
  })
  const failing = await Promise.all(Array.from({ length: 10 }, () => submitTo(patient, receiver.url)))
  await Promise.all(failing.map((id) => waitOfDelivery(patient, id, 1)))
  const waiting = await submitTo(patient, receiver.url)
  for (const _ of failing) await receiver.next()
  wanted = failing[0] ?? ''
  await isTaken(t, patient, wanted)
  t.equal(parse((await receiver.next()).body).job_id, wanted)
  t.match(await endOfDelivery(patient, wanted, 1), { status: 'delivered', tries: [{}, {}] })
  t.match(
    await waitOfDelivery(patient, waiting, 1),
    { tries: [{ status_code: 500 }] },
    'as it closes the circuit',
  )
})

t.test('an event of which no delivery has ended, or that is none, cannot be redelivered', async (t) => {
  const receiver = await startReceiver(t, answersWith(404))
  const { job_id: id } = await submit(patient, {
    type: 'idle',
    callback_url: receiver.url,
    callback_events: ['*'],
  })
  await waitOfDelivery(patient, id, 1)
  await fetch(`${patient.url}/jobs/${id}/cancel`, { method: 'POST' })
  for (const seq of [2, 3, 999_999_999, 0, -1, 1.5, '01', 'abc', '1e0', '%20']) {
    await isProblem(t, await redeliver(patient, id, seq), 'no_such_delivery')
  }
  t.same((await deliveriesOf(patient, id)).deliveries.length, 1)

  const picky = await submit(gateway, { type: 'echo', callback_url: (await startReceiver(t)).url })
  await endOfDelivery(gateway, picky.job_id, 3)
  await isProblem(t, await redeliver(gateway, picky.job_id, 1), 'no_such_delivery')
})

t.test('a job without a return address, or that is none, has nothing to redeliver', async (t) => {
  const { job_id: id } = await submit(gateway, { type: 'echo' })
  await ended(gateway, id)
  await isProblem(t, await redeliver(gateway, id, 1), 'no_callback')
  for (const none of [randomUUID(), '01a2070d-1975-74f5-aaa4-55f9917c2231', 'nonsense']) {
    await isProblem(t, await redeliver(gateway, none, 1), 'not_found')
  }
})

t.test('a redelivery that succeeds brings back a return address that was gone', async (t) => {
  const answer = answersWith(410)
  const receiver = await startReceiver(t, answer)
  const { job_id: id } = await submit(gateway, {
    type: 'echo',
    callback_url: receiver.url,
    callback_events: ['*'],
  })
  await ended(gateway, id)
  await endOfDelivery(gateway, id, 1)
  t.match(await deliveriesOf(gateway, id), { gone: true, deliveries: [{ seq: 1, status: 'dead' }] })

  answer.status = 500
  await isTaken(t, gateway, id)
  await deliveryWhen(gateway, id, 1, ({ status, tries }) => status === 'dead' && tries.length === 2)
  t.equal((await deliveriesOf(gateway, id)).gone, true, 'one that fails does not')

  answer.status = 204
  await isTaken(t, gateway, id)
  await endOfDelivery(gateway, id, 3)
  t.match(await deliveriesOf(gateway, id), {
    gone: false,
    deliveries: [1, 2, 3].map((seq) => ({ seq, status: 'delivered' })),
  })
  const came = []
  for (let nth = 1; nth <= 5; nth++) came.push(parse((await receiver.next()).body).seq)
  t.same(came, [1, 1, 1, 2, 3])
  t.ok(receiver.isQuiet())
})

t.test('a redelivery that is answered by 410 ends what waits as well, until one succeeds', async (t) => {
  const answers = holdsAnswers()
  const receiver = await startReceiver(t, answers)
  const { job_id: id } = await submit(patient, {
    type: 'idle',
    callback_url: receiver.url,
    callback_events: ['*'],
  })
  ;(await answers.next())(204)
  await fetch(`${patient.url}/jobs/${id}/cancel`, { method: 'POST' })
  ;(await answers.next())(500)
  await waitOfDelivery(patient, id, 2)
  await isTaken(t, patient, id)
  ;(await answers.next())(410)
  await deliveryWhen(patient, id, 1, ({ status, tries }) => status === 'delivered' && tries.length === 2)
  t.match(await deliveriesOf(patient, id), { gone: true, deliveries: [{}, { seq: 2, next_try_at: null }] })

  await isTaken(t, patient, id)
  ;(await answers.next())(204)
  ;(await answers.next())(204)
  t.match(await endOfDelivery(patient, id, 2), { status: 'delivered', tries: { length: 2 } })
  const came = []
  for (let nth = 1; nth <= 5; nth++) came.push(parse((await receiver.next()).body).seq)
  t.same(came, [1, 2, 1, 1, 2])
})
