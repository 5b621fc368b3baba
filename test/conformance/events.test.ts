import { Queue, UnrecoverableError } from 'bullmq'
import t from 'tap'
import { startGateway } from '../gateway.ts'
import { ended, get, isoTime, jobIn, leadWorker, submit } from './clients.ts'

const gateway = await startGateway(t, {
  route: { steps: ['first', { queue: 'second', attempts: 2, backoff_ms: 10 }] },
  progress: { steps: ['progress'], attempts: 1 },
  removed: { steps: ['removed'] },
  fatal: { steps: ['fatal'] },
})

t.test(
  'a route with a retry is told step by step, numbered without a hole, in the order of time',
  async (t) => {
    const [first, second] = await Promise.all([leadWorker(gateway, 'first'), leadWorker(gateway, 'second')])
    const accepted = await submit(gateway, { type: 'route' })
    ;(await first.next()).complete(1)
    const failing = await second.next()
    await failing.job.updateProgress({ percent: 90, message: 'nearly' })
    failing.fail('the bank is closed')
    const retried = await second.next()
    const running = await jobIn(await get(gateway, `${accepted.links.self}?after=6`, { prefer: 'wait=20' }))
    t.match(running, { status: 'running', step: { name: 'second', index: 1, count: 2 }, finished_at: null })
    retried.complete({ done: true })

    const events = await ended(gateway, accepted.job_id)
    t.same(
      events.map(({ seq }) => seq),
      [1, 2, 3, 4, 5, 6, 7, 8],
    )
    const told = events.map(({ type, status, data }) => [
      type,
      status,
      type === 'job.completed' ? null : data,
    ])
    t.same(told, [
      ['job.queued', 'queued', accepted],
      ['step.started', 'running', { step: 'first', index: 0, attempt: 1 }],
      ['step.completed', 'running', { step: 'first', index: 0 }],
      ['step.started', 'running', { step: 'second', index: 1, attempt: 1 }],
      ['job.progress', 'running', { percent: 90, message: 'nearly' }],
      [
        'step.retrying',
        'running',
        {
          step: 'second',
          index: 1,
          attempt: 1,
          reason: 'the bank is closed',
          delay_ms: events[5]?.data['delay_ms'],
        },
      ],
      ['step.started', 'running', { step: 'second', index: 1, attempt: 2 }],
      ['job.completed', 'completed', null],
    ])
    t.type(events[5]?.data['delay_ms'], 'number')
    t.ok(events.every((event) => event.job_id === accepted.job_id && isoTime.test(event.timestamp)))
    const times = events.map(({ timestamp }) => timestamp)
    t.same(times, times.toSorted())

    const job = await jobIn(await get(gateway, accepted.links.self))
    t.same(events.at(-1)?.data, job, 'the terminal event shows the job')
    t.match(job, {
      status: 'completed',
      step: { name: 'second', index: 1, count: 2, attempt: 2 },
      progress: null,
      result: { done: true },
      error: null,
      seq: 8,
      started_at: times[1],
      finished_at: times[7],
    })
  },
)

t.test('progress passes in the shape of the contract, and anything else as output', async (t) => {
  const reports = [
    [0, { percent: 0 }],
    [99.5, { percent: 99.5 }],
    [100, { percent: 100 }],
    [101, { output: 101 }],
    [-1, { output: -1 }],
    ['token', { output: 'token' }],
    [true, { output: true }],
    [[1, 2], { output: [1, 2] }],
    [{}, { output: {} }],
    [{ percent: 5 }, { percent: 5 }],
    [
      { message: 'm', output: { row: 1 }, percent: 6 },
      { message: 'm', output: { row: 1 }, percent: 6 },
    ],
    [{ percent: 7, other: 1 }, { output: { percent: 7, other: 1 } }],
    [{ percent: 101 }, { output: { percent: 101 } }],
    [{ percent: '8' }, { output: { percent: '8' } }],
    [{ message: 9 }, { output: { message: 9 } }],
  ] as const
  await gateway.work('progress', async (job) => {
    for (const [report] of reports) await job.updateProgress(report)
  })
  const { job_id: id, links } = await submit(gateway, { type: 'progress' })
  const events = await ended(gateway, id)
  t.strictSame(
    events.filter(({ type }) => type === 'job.progress').map(({ data }) => data),
    reports.map(([, data]) => data),
  )
  t.same(
    (await jobIn(await get(gateway, links.self))).progress,
    { percent: 6, message: 'm' },
    'the last of each',
  )
})

t.test('a job that somebody removes from its queue has failed', async (t) => {
  const { job_id: id } = await submit(gateway, { type: 'removed', delay_ms: 3_600_000 })
  const queue = new Queue('removed', { connection: gateway.redis.connect({ maxRetriesPerRequest: null }) })
  t.teardown(() => queue.close())
  t.equal(await queue.remove(id), 1)
  t.match((await ended(gateway, id)).at(-1), {
    type: 'job.failed',
    data: { error: { code: 'job_removed', status: 500, title: 'The job was removed from its queue' } },
  })
})

t.test('a worker may say that there is no use in another attempt', async (t) => {
  await gateway.work('fatal', async () => {
    throw new UnrecoverableError('never')
  })
  const { job_id: id } = await submit(gateway, { type: 'fatal' })
  const events = await ended(gateway, id)
  t.same(
    events.map(({ type }) => type),
    ['job.queued', 'step.started', 'job.failed'],
  )
  t.match(events.at(-1)?.data, { error: { code: 'step_failed', detail: 'never', attempts: 1 } })
})
