import t, { type Test } from 'tap'
import { Queue } from 'bullmq'
import { cancel, ended, get, jobIn, submit, type Envelope, type JobObject } from './conformance/clients.ts'
import { startGateway, type TestGateway } from './gateway.ts'
import { findFreePort, startRedis, type TestRedis } from './helper.ts'
import { startService, type ReceivedCall, type TestService } from './service.ts'

/*
 * A step that is an existing HTTP service: docs/PROTOCOL.md "HTTP step". The service is a real one that is told how to
 * behave; what it makes the gateway do is looked at where clients see it.
 */

const redis = await startRedis(t)
const trace = /^00-([0-9a-f]{32})-([0-9a-f]{16})-01$/

t.test(
  'a service is given the input as it is, with what identifies the job, the step and the trace',
  async (t) => {
    const { gateway, service } = await start(t, { path: '/payments?dry=1' })
    const input = { name: 'Zoë', list: [1, { a: null }] }
    const { job_id: id } = await submit(gateway, { type: 'order', input })
    const call = await service.next()
    t.match(call, { method: 'POST', path: '/payments?dry=1', body: JSON.stringify(input) })
    t.match(call.headers, {
      'content-type': 'application/json',
      'x-correlation-id': id,
      'idempotency-key': `${id}.payment`,
      traceparent: trace,
    })
    t.equal(trace.exec(String(call.headers['traceparent']))?.[1], id.replaceAll('-', ''))
    call.answer(200, { paid: true })
    t.match((await ended(gateway, id)).at(-1), { type: 'job.completed', data: { result: { paid: true } } })
  },
)

t.test(
  'what a service answers is the result and the next step’s input, as the text that it came in',
  async (t) => {
    const service = await startService(t)
    const steps = ['a', 'b'].map((name) => ({ queue: name, http: { url: `${service.url}/${name}` } }))
    const gateway = await startWith(t, { order: { steps } })
    const { job_id: id } = await submit(gateway, { type: 'order' })
    const first = '{"n":12345678901234567890.10, "n":1e2,"z":"é","a":[ ]}'
    const one = await service.next()
    t.equal(one.body, 'null')
    one.answer(201, first)
    const next = await service.next()
    t.equal(next.body, first)
    t.equal(next.headers['idempotency-key'], `${id}.b`)
    next.answer(200, '\ufeff{"big":\n 98765432109876543210}')
    await ended(gateway, id)
    const result = await (await get(gateway, `/jobs/${id}/result`)).text()
    t.equal(result, '{"big":  98765432109876543210}')
  },
)

t.test('an empty answer is null', async (t) => {
  const { gateway, service } = await start(t)
  for (const status of [200, 204]) {
    const { job_id: id } = await submit(gateway, { type: 'order' })
    ;(await service.next()).answer(status)
    t.match((await ended(gateway, id)).at(-1), { type: 'job.completed', data: { result: null } })
  }
})

t.test('a good answer that is no result, and a redirect, fail the job at once', async (t) => {
  const { gateway, service } = await start(t)
  const cases: [act: (call: ReceivedCall) => void, detail: RegExp][] = [
    [(call) => call.answer(200, '<html>hello</html>'), /^Expected JSON in UTF-8 as the result/],
    [(call) => call.answer(200, Buffer.from([0x22, 0xff, 0x22])), /^Expected JSON in UTF-8 as the result/],
    [(call) => call.answer(200, JSON.stringify('x'.repeat(1_048_576))), /^Expected a smaller answer/],
    [
      (call) => call.answer(302, '', { location: `${service.url}/elsewhere` }),
      /^Expected a 2xx status, got 302$/,
    ],
    [(call) => call.answer(304), /^Expected a 2xx status, got 304$/],
  ]
  for (const [act, detail] of cases) {
    const calls = service.calls()
    service.behave(act)
    const { job_id: id } = await submit(gateway, { type: 'order' })
    t.match((await ended(gateway, id)).at(-1), {
      type: 'job.failed',
      data: { error: { code: 'step_failed', detail, step: 'payment', index: 0, attempts: 1 } },
    })
    t.equal(service.calls(), calls + 1)
  }
})

t.test('a 4xx fails the job at once, and the service’s problem object is in its error', async (t) => {
  const { gateway, service } = await start(t)
  const problem = 'application/problem+json; charset=utf-8'
  const declined = { type: 'urn:x:declined', title: 'Declined', status: 402, detail: 'No funds', balance: 3 }
  const plain = { title: 'Unprocessable Entity', status: 422, detail: 'Expected a 2xx status, got 422' }
  const cases: [act: (call: ReceivedCall) => void, detail: string, problem: object][] = [
    [(call) => call.answer(402, declined, { 'content-type': problem }), 'No funds', declined],
    [
      (call) => call.answer(404, { code: 7 }, { 'content-type': problem }),
      'Not Found',
      { code: 7, title: 'Not Found', status: 404 },
    ],
    [(call) => call.answer(422, { secret: 'stack trace' }), plain.detail, plain],
    [(call) => call.answer(422, 'no JSON', { 'content-type': problem }), plain.detail, plain],
    [(call) => call.answer(422, '[]', { 'content-type': problem }), plain.detail, plain],
    [
      (call) => call.answer(422, { title: 'x'.repeat(20_000) }, { 'content-type': problem }),
      plain.detail,
      plain,
    ],
    [
      (call) => call.answer(409, 'a conflict'),
      'Expected a 2xx status, got 409',
      { title: 'Conflict', status: 409 },
    ],
  ]
  for (const [act, detail, expected] of cases) {
    const calls = service.calls()
    service.behave(act)
    const { job_id: id } = await submit(gateway, { type: 'order' })
    const last = (await ended(gateway, id)).at(-1)
    t.match(last, {
      type: 'job.failed',
      data: { error: { type: 'urn:quartet:problem:step_failed', code: 'step_failed', detail, attempts: 1 } },
    })
    t.match(last?.data, { error: { problem: expected } })
    t.equal(service.calls(), calls + 1)
  }
})

t.test('what may be over soon is tried again, under the same key, in a span of its own', async (t) => {
  const { gateway, service } = await start(t, { attempts: 2 })
  const cases: [act: (call: ReceivedCall) => void, reason: RegExp][] = [
    ...[408, 425, 429, 500, 502, 503, 504].map((status): [(call: ReceivedCall) => void, RegExp] => [
      (call) => call.answer(status, 'x'.repeat(1_048_577)),
      new RegExp(`^Expected a 2xx status, got ${status}$`),
    ]),
    [
      (call) =>
        call.answer(503, { title: 'Closed for lunch' }, { 'content-type': 'application/problem+json' }),
      /^Closed for lunch$/,
    ],
    [(call) => call.answer(409, '', { 'retry-after': '0' }), /^Expected a 2xx status, got 409$/],
    [(call) => void call.response.socket?.resetAndDestroy(), /^Expected an answer, got (ECONNRESET|the end)/],
    [
      (call) => call.response.socket?.end('HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{'),
      /^Expected an answer, got/,
    ],
    [
      (call) => call.response.socket?.end('no HTTP\r\n\r\n'),
      /^Expected an answer, got something that is no HTTP$/,
    ],
  ]
  for (const [act, reason] of cases) {
    const { job_id: id } = await submit(gateway, { type: 'order' })
    const one = await service.next()
    act(one)
    const two = await service.next()
    two.answer(200, 'true')
    const events = await ended(gateway, id)
    t.match(
      events.map(({ type }) => type),
      ['job.queued', 'step.started', 'step.retrying', 'step.started', 'job.completed'],
    )
    t.match(events[2]?.data, { reason, attempt: 1 })
    t.match(events[4]?.data, { step: { attempt: 2 }, result: true })
    t.equal(two.headers['idempotency-key'], one.headers['idempotency-key'])
    const [first, second] = [one, two].map(({ headers }) => trace.exec(String(headers['traceparent'])) ?? [])
    t.equal(first?.[1], second?.[1], 'one trace')
    t.not(first?.[2], second?.[2], 'two spans')
  }
})

t.test(
  'a service that does not answer in time, or not all of it, is hung up on and asked again',
  async (t) => {
    // On a busy machine the time may be too short for an answer as well: then it is asked once more.
    const { gateway, service } = await start(t, { attempts: 100, timeout_ms: 300 })
    const cases: ((call: ReceivedCall) => void)[] = [
      () => undefined,
      (call) => void call.response.writeHead(200).write('{'),
    ]
    for (const act of cases) {
      service.behave(null)
      const { job_id: id } = await submit(gateway, { type: 'order' })
      const call = await service.next()
      service.behave((next) => next.answer(200, 'true'))
      act(call)
      await call.closed
      t.notOk(call.response.writableFinished)
      const events = await ended(gateway, id)
      t.match(events.find(({ type }) => type === 'step.retrying')?.data, {
        reason: 'Expected an answer within 300 ms, got none',
        attempt: 1,
      })
      t.match(events.at(-1), { type: 'job.completed', data: { result: true } })
    }
  },
)

t.test('where nobody listens, the job fails after its attempts, and no address is told', async (t) => {
  const gateway = await startWith(t, {
    order: { steps: [httpStep(`http://127.0.0.1:${await findFreePort()}`, { attempts: 2 })] },
  })
  const { job_id: id } = await submit(gateway, { type: 'order' })
  const events = await ended(gateway, id)
  t.match(events.at(-1), {
    type: 'job.failed',
    data: { error: { code: 'step_failed', detail: 'Expected an answer, got ECONNREFUSED', attempts: 2 } },
  })
  t.notMatch(JSON.stringify(events), '127.0.0.1')
})

t.test('the last of its failures is in a job’s error, with the problem object', async (t) => {
  const { gateway, service } = await start(t, { attempts: 2 })
  service.behave((call) =>
    call.answer(503, { title: 'Busy', retry: true }, { 'content-type': 'application/problem+json' }),
  )
  const { job_id: id } = await submit(gateway, { type: 'order' })
  t.match((await ended(gateway, id)).at(-1), {
    data: { error: { detail: 'Busy', attempts: 2, problem: { title: 'Busy', status: 503, retry: true } } },
  })
})

t.test(
  'Retry-After is the wait before the next attempt, within bounds, and the backoff is without it',
  async (t) => {
    const { gateway, service } = await start(t, { attempts: 3, backoff_ms: 20_000 })
    const inHalfAnHour = () => new Date(Date.now() + 1_800_000).toUTCString()
    const cases: [retryAfter: string | null, fromMs: number, toMs: number][] = [
      ['100', 99_000, 101_000],
      [inHalfAnHour(), 1_790_000, 1_801_000],
      ['999999', 3_590_000, 3_601_000],
      ['1', 19_000, 21_000],
      ['soon', 19_000, 21_000],
      [null, 19_000, 21_000],
    ]
    for (const status of [429, 503]) {
      for (const [retryAfter, fromMs, toMs] of cases) {
        const { job_id: id } = await submit(gateway, { type: 'order' })
        ;(await service.next()).answer(status, '', retryAfter === null ? {} : { 'retry-after': retryAfter })
        const { delay_ms: delayMs } = (await until(gateway, id, 'step.retrying')).data as { delay_ms: number }
        t.ok(delayMs >= fromMs && delayMs <= toMs, `${retryAfter}: ${delayMs} ms`)
        t.match(await jobIn(await cancel(gateway, id)), { status: 'canceled' })
      }
    }
  },
)

t.test('a job that is canceled hangs up on the service, and does not go on', async (t) => {
  const service = await startService(t)
  const gateway = await startWith(t, {
    last: { steps: [httpStep(service.url)] },
    first: { steps: [httpStep(service.url), 'never'] },
  })
  for (const type of ['last', 'first']) {
    const { job_id: id } = await submit(gateway, { type })
    const call = await service.next()
    t.equal((await cancel(gateway, id)).status, 202)
    await call.closed
    t.notOk(call.response.writableFinished)
    t.match(
      (await ended(gateway, id)).map((event) => event.type),
      ['job.queued', 'step.started', 'job.canceling', 'job.canceled'],
    )
  }
  t.equal(service.calls(), 2)
})

t.test('a job that is past its deadline is expired, and hangs up on the service', async (t) => {
  const { gateway, service } = await start(t)
  const { job_id: id } = await submit(gateway, { type: 'order', deadline_ms: 2_000 })
  const call = await service.next()
  await call.closed
  t.notOk(call.response.writableFinished)
  t.match((await ended(gateway, id)).at(-1), {
    type: 'job.expired',
    data: { error: { code: 'deadline_exceeded' } },
  })
  t.equal(service.calls(), 1)
})

t.test('a job that somebody else put into the queue is called for as well', async (t) => {
  const { gateway, service } = await start(t)
  const queue = new Queue('payment', { connection: redis.connect(), prefix: prefixOf(gateway) })
  t.teardown(() => queue.close())
  await queue.add('mine', { by: 'hand' }, { jobId: 'añb c' })
  const call = await service.next()
  t.equal(call.body, '{"by":"hand"}')
  t.match(call.headers, { 'x-correlation-id': 'a%C3%B1b%20c', traceparent: trace })
  call.answer(200, '1')
})

t.test(
  'a plain worker’s reason that is a problem object is in the error as one; any other is its detail',
  async (t) => {
    const gateway = await startWith(t, { plain: { steps: [{ queue: 'plain', attempts: 2, backoff_ms: 1 }] } })
    let reason = ''
    await gateway.work(
      'plain',
      () => {
        throw new Error(reason)
      },
      { prefix: prefixOf(gateway) },
    )
    const cases: [reason: string, detail: string, problem: object | undefined][] = [
      ['{"title":"Out of stock","left":0}', 'Out of stock', { title: 'Out of stock', left: 0 }],
      ['{"title":"Out of stock","detail":"No tea"}', 'No tea', { title: 'Out of stock', detail: 'No tea' }],
      ...['{"title":7}', '{"title":', '["title"]', '{}', 'no', `{"title":"${'x'.repeat(20_000)}"}`].map(
        (text): [string, string, undefined] => [text, text, undefined],
      ),
    ]
    for (const [text, detail, problem] of cases) {
      reason = text
      const { job_id: id } = await submit(gateway, { type: 'plain' })
      const events = await ended(gateway, id)
      t.match(events.find(({ type }) => type === 'step.retrying')?.data, { reason: detail })
      const error = (events.at(-1)?.data as JobObject | undefined)?.error
      t.equal(error?.detail, detail)
      t.strictSame(error?.problem, problem)
    }
  },
)

interface Options {
  path?: string
  attempts?: number
  backoff_ms?: number
  timeout_ms?: number
}

/** A gateway whose type `order` has one step, `payment`, which is the service. */
async function start(
  t: Test,
  { path = '', ...options }: Options = {},
): Promise<{ gateway: TestGateway; service: TestService }> {
  const service = await startService(t)
  const gateway = await startWith(t, { order: { steps: [httpStep(service.url + path, options)] } })
  return { gateway, service }
}

function httpStep(url: string, { attempts = 3, backoff_ms = 1, timeout_ms = 10_000 }: Options = {}) {
  return { queue: 'payment', http: { url, timeout_ms }, attempts, backoff_ms }
}

let gateways = 0
const prefixes = new WeakMap<TestGateway, string>()

/** Each test has queues of its own, on the Redis that they share. */
async function startWith(
  t: Test,
  types: Record<string, unknown>,
  server: TestRedis = redis,
): Promise<TestGateway> {
  const prefix = `test${gateways++}`
  const gateway = await startGateway(t, types, {
    redis: server,
    env: { QUARTET_ROLES: 'http,collect,workers', QUARTET_BULLMQ_PREFIX: prefix },
  })
  prefixes.set(gateway, prefix)
  return gateway
}

function prefixOf(gateway: TestGateway): string {
  return prefixes.get(gateway) ?? ''
}

/** Follows a job until an event of a type has come. */
async function until(gateway: TestGateway, id: string, type: string): Promise<Envelope> {
  for (let after = 0; ;) {
    const response = await get(gateway, `/jobs/${id}?after=${after}`, { prefer: 'wait=30' })
    const { seq, finished_at: finishedAt } = await jobIn(response)
    after = seq
    const page = await get(gateway, `/jobs/${id}/events`, { accept: 'application/json' })
    const { events } = (await page.json()) as { events: Envelope[] }
    const found = events.find((event) => event.type === type)
    if (found) return found
    if (finishedAt !== null) throw new Error(`Expected ${type}, got ${JSON.stringify(events)}`)
  }
}
