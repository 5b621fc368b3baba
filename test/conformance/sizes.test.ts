import t from 'tap'
import { startGateway } from '../gateway.ts'
import {
  ended,
  get,
  isProblem,
  jobIn,
  leadWorker,
  openSocket,
  postBatch,
  postText,
  submit,
  type Frame,
} from './clients.ts'

/* How large things may be, and how many of them: docs/PROTOCOL.md "Limits". */

const gateway = await startGateway(
  t,
  {
    one: { steps: ['last'], journal_limit: 10 },
    two: { steps: ['first', 'last'] },
    idle: { steps: ['idle'] },
  },
  {
    env: {
      QUARTET_MAX_BODY_BYTES: '2000',
      QUARTET_MAX_RESULT_BYTES: '1000',
      QUARTET_MAX_PROGRESS_BYTES: '500',
      QUARTET_MAX_SUBSCRIPTIONS: '2',
      QUARTET_SOCKET_MESSAGES: '5/1h',
    },
  },
)
const attempts = { first: await leadWorker(gateway, 'first'), last: await leadWorker(gateway, 'last') }

/** JSON text of so many bytes, of characters that have two each. */
const valueOf = (bytes: number) => 'é'.repeat((bytes - 2) / 2)

t.test('a result of the size that is allowed is one, with a byte more the job fails', async (t) => {
  const { job_id: fits } = await submit(gateway, { type: 'one' })
  ;(await attempts.last.next()).complete(valueOf(1_000))
  t.match((await ended(gateway, fits)).at(-1), { type: 'job.completed', data: { result: valueOf(1_000) } })

  const { job_id: id, links } = await submit(gateway, { type: 'one' })
  ;(await attempts.last.next()).complete(valueOf(1_002))
  const events = await ended(gateway, id)
  t.same(
    events.map(({ seq, type }) => [seq, type]),
    [
      [1, 'job.queued'],
      [2, 'step.started'],
      [3, 'job.failed'],
    ],
  )
  const error = {
    type: 'urn:quartet:problem:result_too_large',
    title: 'The result of a step is too large',
    status: 500,
    code: 'result_too_large',
    detail: 'Expected at most 1000 bytes, got 1002',
    step: 'last',
    index: 0,
    attempts: 1,
  }
  t.strictSame(events.at(-1)?.data['error'], error)
  t.strictSame((await jobIn(await get(gateway, links.self))).error, error)
  await isProblem(t, await get(gateway, `${links.self}/result`), 'no_result')
})

t.test('nor is it handed to the next step', async (t) => {
  const { job_id: id } = await submit(gateway, { type: 'two' })
  ;(await attempts.first.next()).complete(valueOf(1_002))
  t.match((await ended(gateway, id)).at(-1), {
    type: 'job.failed',
    data: { error: { code: 'result_too_large', step: 'first', index: 0 } },
  })
  t.ok(attempts.last.isEmpty())
})

t.test('of progress that is too large its size is told, and the job goes on', async (t) => {
  const { job_id: id, links } = await submit(gateway, { type: 'one' })
  const attempt = await attempts.last.next()
  await attempt.job.updateProgress({ percent: 5, message: 'so far' })
  await attempt.job.updateProgress({ percent: 10, output: 'x'.repeat(500) })
  await attempt.job.updateProgress(valueOf(500))
  attempt.complete('done')
  const events = await ended(gateway, id)
  t.same(
    events.filter(({ type }) => type === 'job.progress').map(({ data }) => data),
    [{ percent: 5, message: 'so far' }, { omitted_bytes: 526 }, { output: valueOf(500) }],
  )
  t.match(await jobIn(await get(gateway, links.self)), {
    status: 'completed',
    progress: { percent: 5, message: 'so far' },
    result: 'done',
  })
})

t.test('a reason of any length is one of 65,536 characters at most', async (t) => {
  const { job_id: id } = await submit(gateway, { type: 'two' })
  for (let n = 1; n <= 3; n++) (await attempts.first.next()).fail('r'.repeat(100_000))
  const events = await ended(gateway, id)
  const [retrying] = events.filter(({ type }) => type === 'step.retrying')
  const reason = `${'r'.repeat(65_536)}…`
  t.equal(retrying?.data['reason'], reason)
  t.match(events.at(-1), { data: { error: { code: 'step_failed', detail: reason } } })
})

t.test('a journal has as many events as its type says: before them is a snapshot', async (t) => {
  const { job_id: id } = await submit(gateway, { type: 'one' })
  const attempt = await attempts.last.next()
  for (let n = 1; n <= 20; n++) await attempt.job.updateProgress(n)
  attempt.complete('done')
  await ended(gateway, id)
  const page = await get(gateway, `/jobs/${id}/events`, { accept: 'application/json' })
  const { events, truncated } = (await page.json()) as {
    events: { seq: number; type: string }[]
    truncated: boolean
  }
  t.ok(truncated)
  t.same(
    events.map(({ seq }) => seq),
    [13, ...Array.from({ length: 10 }, (_, n) => n + 14)],
  )
  t.match([events[0], events.at(-1)], [{ type: 'job.snapshot' }, { type: 'job.completed' }])
})

t.test(
  'a body of the size that is allowed is read, with a byte more it is not; a batch may have eight',
  async (t) => {
    const fill = (size: number) => `{"type":"idle","input":"${'x'.repeat(size - 26)}"}`
    t.equal((await postText(gateway, fill(2_000))).status, 202)
    await isProblem(t, await postText(gateway, fill(2_001)), 'payload_too_large')
    const item = { type: 'idle', input: 'x'.repeat(1_900) }
    t.equal(
      (
        await postBatch(
          gateway,
          Array.from({ length: 8 }, () => item),
        )
      ).status,
      200,
    )
    await isProblem(
      t,
      await postBatch(
        gateway,
        Array.from({ length: 9 }, () => item),
      ),
      'payload_too_large',
    )
  },
)

t.test('a WebSocket has as many subscriptions as it is told', async (t) => {
  const { send, frame, closed } = await openSocket(t, gateway.url, { init: false })
  send({ op: 'init' })
  t.match(await frame(), { op: 'ready', max_subscriptions: 2 })
  for (let n = 1; n <= 3; n++) send({ op: 'submit', ref: n, job: { type: 'idle' } })
  const frames: Frame[] = []
  for (let n = 1; n <= 4; n++) frames.push(await frame())
  t.match(frames, [{ op: 'accepted' }, { op: 'event' }, { op: 'accepted' }, { op: 'event' }])
  t.equal(await closed, 4429)
})

t.test('a WebSocket that sends more messages than it may is closed with 4429', async (t) => {
  const { send, frame, closed, isQuiet } = await openSocket(t, gateway.url)
  for (let n = 1; n <= 5; n++) send({ op: 'ping' })
  for (let n = 1; n <= 4; n++) t.match(await frame(), { op: 'pong' })
  t.equal(await closed, 4429)
  t.ok(isQuiet())
})

t.test('what was refused without a problem is counted', async (t) => {
  const text = await (await get(gateway, '/metrics')).text()
  for (const [limit, count] of Object.entries({ result: 2, progress: 1, subscriptions: 1, messages: 1 }))
    t.match(text, `quartet_limited_total{limit="${limit}"} ${count}\n`)
})
