import { setTimeout as delay } from 'node:timers/promises'
import t from 'tap'
import { startGateway } from '../gateway.ts'
import { ended, get, isProblem, jobIn, leadWorker, startReceiver, submit } from './clients.ts'

t.test('jobs without a priority go first, then from priority 1 to the last', async (t) => {
  const gateway = await startGateway(t, { ranked: { steps: ['ranked'], attempts: 1 } })
  const ranks = [2_097_151, 5, undefined, 1, 0, 2]
  for (const priority of ranks) await submit(gateway, { type: 'ranked', input: priority ?? null, priority })
  const attempts = await leadWorker(gateway, 'ranked', { concurrency: 1 })
  const order: unknown[] = []
  for (const _ of ranks) {
    const attempt = await attempts.next()
    order.push(attempt.job.data)
    attempt.complete()
  }
  t.same(order, [null, 0, 1, 2, 5, 2_097_151])
})

t.test('a delayed job waits while others pass, and is queued meanwhile', async (t) => {
  const gateway = await startGateway(t, { timed: { steps: ['timed'], attempts: 1 } })
  const attempts = await leadWorker(gateway, 'timed')
  const late = await submit(gateway, { type: 'timed', input: 'late', delay_ms: 1_500 })
  await submit(gateway, { type: 'timed', input: 'at once' })
  const first = await attempts.next()
  t.equal(first.job.data, 'at once')
  first.complete()
  t.match(await jobIn(await get(gateway, late.links.self)), { status: 'queued', seq: 1 })

  const second = await attempts.next()
  t.equal(second.job.data, 'late')
  second.complete()
  const events = await ended(gateway, late.job_id)
  t.same(
    events.map(({ type }) => type),
    ['job.queued', 'step.started', 'job.completed'],
  )
  const waited = Date.parse(events[1]?.timestamp ?? '') - Date.parse(late.created_at)
  t.ok(waited >= 1_400, `Expected about 1,500 ms, got ${waited}`)
})

t.test('a job that has not ended by its deadline is expired: in a queue, and under a worker', async (t) => {
  const gateway = await startGateway(t, {
    idle: { steps: ['idle'] },
    held: { steps: ['held'], attempts: 1 },
  })
  const held = await leadWorker(gateway, 'held')
  const jobs = await Promise.all([
    submit(gateway, { type: 'idle', deadline_ms: 1_000 }),
    submit(gateway, { type: 'held', deadline_ms: 1_000 }),
    submit(gateway, { type: 'idle', delay_ms: 900, deadline_ms: 1_000 }),
  ])
  const attempt = await held.next()
  for (const { job_id: id, created_at: createdAt } of jobs) {
    const last = (await ended(gateway, id)).at(-1)
    t.match(last, {
      type: 'job.expired',
      status: 'expired',
      data: { status: 'expired', result: null, error: { code: 'deadline_exceeded', status: 504 } },
    })
    t.ok(Date.parse(last?.timestamp ?? '') - Date.parse(createdAt) >= 1_000, 'not before the deadline')
    await isProblem(t, await get(gateway, `/jobs/${id}/result`), 'no_result')
  }

  t.test('and what the worker does then is ignored', async (t) => {
    const id = attempt.job.id ?? ''
    attempt.complete('too late')
    const other = await submit(gateway, { type: 'held' })
    const next = await held.next()
    next.complete()
    // One result queue, in order: what came before this end has been looked at.
    await ended(gateway, other.job_id)
    t.match(await jobIn(await get(gateway, `/jobs/${id}`)), { status: 'expired', result: null, seq: 3 })
  })
})

t.test("without deadline_ms it is the type's deadline, on top of the delay", async (t) => {
  const gateway = await startGateway(t, { brief: { steps: ['brief'], deadline_ms: 500 } })
  const delayed = await submit(gateway, { type: 'brief', delay_ms: 3_600_000 })
  const brief = await submit(gateway, { type: 'brief' })
  t.match((await ended(gateway, brief.job_id)).at(-1), { type: 'job.expired' })
  t.match(await jobIn(await get(gateway, delayed.links.self)), { status: 'queued' })
})

t.test('a job expires when the retention of its type is over: everything of it is 404', async (t) => {
  const gateway = await startGateway(t, { brief: { steps: ['brief'], attempts: 1, retention_s: 1 } })
  await gateway.work('brief', async () => 1)
  const receiver = await startReceiver(t, (response) => response.writeHead(500).end())
  const awaited = await submit(gateway, { type: 'brief', callback_url: receiver.url })
  await ended(gateway, awaited.job_id)
  const response = await gateway.post({ type: 'brief' }, { prefer: 'wait=20', 'idempotency-key': 'brief' })
  const job = await jobIn(response)
  t.equal(Date.parse(job.expires_at ?? '') - Date.parse(job.finished_at ?? ''), 1_000)
  while ((await get(gateway, job.links.self)).status !== 404) await delay(50)
  for (const path of [job.links.self, job.links.events, `${job.links.self}/result`])
    await isProblem(t, await get(gateway, path), 'not_found')
  const kept = await jobIn(await get(gateway, awaited.links.self))
  t.ok(
    Date.parse(kept.expires_at ?? '') < Date.parse(job.expires_at ?? ''),
    'unless it is still being delivered',
  )
  t.same(await (await get(gateway, '/jobs')).json(), { jobs: [kept], next_page_token: null })
  const again = await gateway.post({ type: 'brief' }, { 'idempotency-key': 'brief' })
  t.notOk(again.headers.has('idempotent-replayed'), 'its key is free again')
})
