import { setTimeout as delay } from 'node:timers/promises'
import t from 'tap'
import { startGateway } from '../gateway.ts'
import { cancel, ended, get, isProblem, jobIn, leadWorker, submit } from './clients.ts'

const gateway = await startGateway(t, {
  waiting: { steps: ['waiting'], attempts: 1 },
  held: { steps: ['held'], attempts: 1 },
  patient: { steps: ['patient'], attempts: 3, backoff_ms: 3_600_000 },
  route: { steps: ['first', 'second'], attempts: 1 },
})
const attempts = await leadWorker(gateway, 'patient')
const typesOf = async (id: string) => (await ended(gateway, id)).map(({ type }) => type)

t.test('a job that waits in its queue is canceled at once, and no worker ever sees it', async (t) => {
  const waiting = await submit(gateway, { type: 'waiting', input: 'canceled' })
  const delayed = await submit(gateway, { type: 'waiting', input: 'canceled', delay_ms: 100 })
  const ranked = await submit(gateway, { type: 'waiting', input: 'canceled', priority: 1 })
  for (const { job_id: id, links } of [waiting, delayed, ranked]) {
    const response = await cancel(gateway, id)
    t.equal(response.status, 200)
    const job = await jobIn(response)
    t.match(job, { job_id: id, status: 'canceled', result: null, error: null, seq: 2 })
    t.same(await jobIn(await get(gateway, links.self)), job)
    t.same(await typesOf(id), ['job.queued', 'job.canceled'])
  }

  const waitingAttempts = await leadWorker(gateway, 'waiting')
  await submit(gateway, { type: 'waiting', input: 'next', delay_ms: 200, priority: 2 })
  const attempt = await waitingAttempts.next()
  t.equal(attempt.job.data, 'next')
  t.ok(waitingAttempts.isEmpty())
  attempt.complete()
})

t.test('a job that waits for another attempt is canceled at once', async (t) => {
  const { job_id: id, links } = await submit(gateway, { type: 'patient' })
  const attempt = await attempts.next()
  attempt.fail('not now')
  await get(gateway, `${links.self}?after=2`, { prefer: 'wait=20' })
  const response = await cancel(gateway, id)
  t.equal(response.status, 200)
  t.match(await jobIn(response), { status: 'canceled' })
  t.same(await typesOf(id), ['job.queued', 'step.started', 'step.retrying', 'job.canceled'])
})

t.test(
  'a job that a worker has is canceling, and canceled when the attempt fails: there is no other',
  async (t) => {
    const { job_id: id } = await submit(gateway, { type: 'patient' })
    const attempt = await attempts.next()
    for (const time of ['first', 'second']) {
      const response = await cancel(gateway, id)
      t.equal(response.status, 202, `the ${time} time`)
      t.match(await jobIn(response), { status: 'canceling', finished_at: null })
    }
    attempt.fail('interrupted')
    const events = await ended(gateway, id)
    t.same(
      events.map(({ type, status }) => [type, status]),
      [
        ['job.queued', 'queued'],
        ['step.started', 'running'],
        ['job.canceling', 'canceling'],
        ['job.canceled', 'canceled'],
      ],
    )
    t.same(events[2]?.data, {})
    t.match(events[3]?.data, { status: 'canceled', result: null, error: null })

    const again = await cancel(gateway, id)
    t.equal(again.status, 200)
    t.match(await jobIn(again), { status: 'canceled', seq: 4 })
    const client = gateway.redis.connect()
    while (await client.exists(`bull:patient:${id}`)) await delay(20)
    t.ok(attempts.isEmpty(), 'the retry is out of its queue')
  },
)

t.test('a canceling job whose step was not the last is canceled when that is completed', async (t) => {
  const [first, second] = await Promise.all([leadWorker(gateway, 'first'), leadWorker(gateway, 'second')])
  const { job_id: id } = await submit(gateway, { type: 'route', input: 1 })
  const attempt = await first.next()
  t.equal((await cancel(gateway, id)).status, 202)
  attempt.complete('not needed any more')
  t.same(await typesOf(id), ['job.queued', 'step.started', 'job.canceling', 'step.completed', 'job.canceled'])

  const other = await submit(gateway, { type: 'route', input: 2 })
  ;(await first.next()).complete(2)
  const next = await second.next()
  t.equal(next.job.id, other.job_id, 'the second step never gets the canceled one')
  next.complete()
})

t.test('a canceling job that completes its last step is completed in spite of it', async (t) => {
  const held = await leadWorker(gateway, 'held')
  const { job_id: id } = await submit(gateway, { type: 'held' })
  const attempt = await held.next()
  t.equal((await cancel(gateway, id)).status, 202)
  attempt.complete('done')
  const events = await ended(gateway, id)
  t.same(
    events.map(({ type }) => type),
    ['job.queued', 'step.started', 'job.canceling', 'job.completed'],
  )
  t.match(events.at(-1), { status: 'completed', data: { result: 'done' } })
  await isProblem(t, await cancel(gateway, id), 'already_finished')

  const failing = await submit(gateway, { type: 'held' })
  ;(await held.next()).fail('broken')
  await ended(gateway, failing.job_id)
  await isProblem(t, await cancel(gateway, failing.job_id), 'already_finished')
})

t.test('a canceling job is canceled at its deadline, and what its worker does then is ignored', async (t) => {
  const { job_id: id, links } = await submit(gateway, { type: 'patient', deadline_ms: 1_500 })
  const attempt = await attempts.next()
  t.equal((await cancel(gateway, id)).status, 202)
  t.match((await ended(gateway, id)).at(-1), { type: 'job.canceled', data: { error: null } })

  attempt.complete('too late')
  const other = await submit(gateway, { type: 'patient' })
  ;(await attempts.next()).complete()
  await ended(gateway, other.job_id)
  t.match(await jobIn(await get(gateway, links.self)), { status: 'canceled', result: null, seq: 4 })
})
