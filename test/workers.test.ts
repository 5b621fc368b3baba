import { readdir, readFile } from 'node:fs/promises'
import { setTimeout as sleep } from 'node:timers/promises'
import { Ajv2020 } from 'ajv/dist/2020.js'
import addFormats from 'ajv-formats'
import { Queue, QueueEvents, type Job, type JobsOptions } from 'bullmq'
import t, { type Test } from 'tap'
import { startSampleWorkers } from '../workers/start.ts'
import { startRedis, type TestRedis } from './helper.ts'

const order = {
  order_id: 'A-1',
  items: [
    { sku: 'tea', quantity: 2 },
    { sku: 'cup', quantity: 1 },
  ],
  amount_cents: 1250,
  card: '4242424242424242',
}

const redis = await startRedis(t)
const workers = startSampleWorkers({ connection: redis.connect({ maxRetriesPerRequest: null }) })
t.teardown(() => workers.close())

t.test('an order goes through four queues, the result of each step the input of the next', async (t) => {
  const reserved = await work(t, 'inventory', order)
  t.match(reserved.result, { ...order, pieces: 3 })

  const paid = await work(t, 'payment', reserved.result)
  t.match(paid.result, { order_id: 'A-1', pieces: 3, currency: 'EUR', payment_id: `pay_${paid.job.id}` })

  const shipped = await work(t, 'shipping', paid.result)
  t.match(shipped.result, { carrier: 'post', tracking_number: /^QT-\w+$/ })

  const { result } = await work(t, 'notification', shipped.result)
  t.strictSame(result, {
    order_id: 'A-1',
    status: 'shipped',
    pieces: 3,
    payment_id: `pay_${paid.job.id}`,
    carrier: 'post',
    tracking_number: `QT-${shipped.job.id}`,
    notified: null,
  })
})

t.test('inventory reports its progress item by item', async (t) => {
  const { progress } = await work(t, 'inventory', order)
  t.strictSame(progress, [
    { percent: 50, message: 'reserved 2 × tea' },
    { percent: 100, message: 'reserved 1 × cup' },
  ])
})

t.test('payment says what it charges, and lets no card number out', async (t) => {
  const { result, progress } = await work(t, 'payment', { ...order, currency: 'CHF' })
  t.match(progress.at(-1), { percent: 60, message: /CHF.12\.50/ })
  t.notMatch(JSON.stringify([result, progress]), order.card)
})

t.test('an order without a card goes on invoice', async (t) => {
  const { result } = await work(t, 'payment', { order_id: 'A-1', items: order.items, amount_cents: 1250 })
  t.match(result, { order_id: 'A-1', payment_id: null })
})

t.test('a declined card fails for good, with attempts left', async (t) => {
  const { job, failure } = await work(t, 'payment', { ...order, card: '0002' }, { attempts: 5 })
  t.equal(failure, 'card declined')
  t.equal(job.attemptsMade, 1)
})

t.test('a flaky carrier fails the first attempt, and the retry works', async (t) => {
  const { job, result } = await work(t, 'shipping', { ...order, carrier: 'flaky' }, { attempts: 2 })
  t.match(result, { carrier: 'flaky', tracking_number: /^QT-/ })
  t.equal(job.attemptsMade, 2)

  const once = await work(t, 'shipping', { ...order, carrier: 'flaky' })
  t.equal(once.failure, 'carrier did not answer')
})

t.test('the customer is told by the last step', async (t) => {
  const { result, progress } = await work(t, 'notification', { ...order, email: 'ada@example.com' })
  t.match(result, { status: 'shipped', notified: 'ada@example.com' })
  t.match(progress, [{ message: 'writing to ada@example.com' }])
})

t.test('the tokens of a chat add up to its reply', async (t) => {
  const input = { prompt: 'Why is the sky blue?', delay_ms_per_token: 0 }
  const { result, progress } = await work<{ reply: string; tokens: number }>(t, 'chat', input)
  t.equal(progress.map(({ output }) => output).join(''), result.reply)
  t.equal(progress.length, result.tokens)
  t.match(result.reply, /a question of 5 words.*blue sky the is Why/)

  const again = await work(t, 'chat', input)
  t.strictSame(again.result, result, 'the same prompt gets the same reply')

  const silence = await work<{ reply: string }>(t, 'chat', { prompt: '…', delay_ms_per_token: 0 })
  t.match(silence.result.reply, /nothing to answer/)
})

t.test('echo returns any JSON as it came', async (t) => {
  for (const input of [{ deep: [{ tea: '☕' }] }, [1, 'two', null], 'text', 0, false, null]) {
    const { result } = await work(t, 'echo', input)
    t.strictSame(result, input)
  }
})

t.test('a countdown ticks down to its liftoff', async (t) => {
  const { result, progress } = await work(t, 'countdown', { from: 4, interval_ms: 10 })
  t.strictSame(result, { liftoff: true })
  t.strictSame(progress, [
    { percent: 0, message: '4…' },
    { percent: 25, message: '3…' },
    { percent: 50, message: '2…' },
    { percent: 75, message: '1…' },
  ])
})

t.test('every step of the configuration has a worker, and every schema takes a fitting input', async (t) => {
  const { types } = JSON.parse(await readFile('quartet.config.json', 'utf8'))
  const steps = Object.values<{ steps: (string | { queue: string })[] }>(types).flatMap(({ steps }) => steps)
  for (const step of steps) {
    const queue = openQueue(t, redis, typeof step === 'string' ? step : step.queue)
    t.equal(await queue.getWorkersCount(), 1, queue.name)
  }

  const ajv = new Ajv2020({ strict: true })
  addFormats.default(ajv)
  const accepts = (type: string, input: unknown) => ajv.validate(types[type].input ?? true, input)
  t.ok(accepts('order', order))
  t.ok(accepts('order', { ...order, email: 'ada@example.com', carrier: 'flaky', currency: 'USD' }))
  t.ok(accepts('order', { order_id: 'A-1', items: [{ sku: 'tea', quantity: 1 }] }))
  t.notOk(accepts('order', { ...order, items: [] }))
  t.notOk(accepts('order', { ...order, coupon: 'X' }))
  t.notOk(accepts('order', { ...order, email: 'ada' }))
  t.ok(accepts('chat', { prompt: 'hello' }))
  t.notOk(accepts('chat', { prompt: '' }))
  t.ok(accepts('countdown', { from: 3 }))
  t.notOk(accepts('countdown', { from: 0 }))
  t.ok(accepts('echo', null))
})

t.test('there is a sample worker for the queues that are asked for, and for no other', async (t) => {
  const connection = redis.connect({ maxRetriesPerRequest: null })
  const workers = startSampleWorkers({ connection, prefix: 'some', queues: ['echo', 'unknown'] })
  t.teardown(() => workers.close())
  const [echo, payment] = ['echo', 'payment'].map((name) => openQueue(t, redis, name, 'some'))
  while ((await echo?.getWorkersCount()) !== 1) await sleep(10)
  t.equal(await payment?.getWorkersCount(), 0)
})

t.test('workers import BullMQ, Node.js and each other, and nothing of the gateway', async (t) => {
  for (const file of await readdir('workers')) {
    const source = await readFile(`workers/${file}`, 'utf8')
    for (const [, module] of source.matchAll(/from '(.+)'/g)) t.match(module, /^(bullmq|node:.+|\.\/[^/]+)$/)
  }
})

t.test('closing waits for a short job, and leaves a long one to itself', async (t) => {
  const connection = redis.connect({ maxRetriesPerRequest: null })
  const workers = startSampleWorkers({ connection, prefix: 'closing' })
  const queue = openQueue(t, redis, 'countdown', 'closing')
  const short = await queue.add('job', { from: 1, interval_ms: 500 })
  const long = await queue.add('job', { from: 5, interval_ms: 1_000 })
  while ((await queue.getActiveCount()) < 2) await sleep(10)

  const next = await queue.add('job', { from: 1 }, { delay: 100 })
  await workers.close()
  t.equal(await short.getState(), 'completed')
  t.equal(await long.getState(), 'active')
  t.not(await next.getState(), 'active', 'no new job is taken')
  while (await long.isActive()) await sleep(10)
  t.equal(await long.getState(), 'completed')
})

t.test('a lost Redis is told to onError, and the workers are back when it is', async (t) => {
  const redis = await startRedis(t)
  const errors: Error[] = []
  const connection = redis.connect({ maxRetriesPerRequest: null, retryStrategy: () => 50 })
  const workers = startSampleWorkers({ connection, onError: (error) => errors.push(error) })
  t.teardown(() => workers.close())
  await work(t, 'echo', 'before', {}, redis)

  await redis.stop()
  while (errors.length === 0) await sleep(10)
  await redis.start()
  const { result } = await work(t, 'echo', 'after', {}, redis)
  t.equal(result, 'after')
})

interface Progress {
  percent?: number
  message?: string
  output?: string
}

interface Outcome<Result> {
  job: Job
  result: Result
  failure: string | undefined
  progress: Progress[]
}

/** Does one job as any producer would, and hears what its worker says meanwhile. */
async function work<Result = unknown>(
  t: Test,
  name: string,
  input: unknown,
  options: JobsOptions = {},
  server: TestRedis = redis,
): Promise<Outcome<Result>> {
  const queue = openQueue(t, server, name)
  const events = new QueueEvents(name, { connection: server.connect({ maxRetriesPerRequest: null }) })
  await events.waitUntilReady()

  const reports: { jobId: string; data: unknown }[] = []
  events.on('progress', (report) => reports.push(report))
  const job = await queue.add('job', input, options)
  let failure: string | undefined
  const result = await job.waitUntilFinished(events).catch((error: Error) => {
    failure = error.message
  })
  const finished = (await queue.getJob(job.id ?? '')) ?? job
  await events.close()
  const progress = reports.filter(({ jobId }) => jobId === job.id).map(({ data }) => data as Progress)
  return { job: finished, result: result as Result, failure, progress }
}

function openQueue(t: Test, server: TestRedis, name: string, prefix = 'bull'): Queue {
  const queue = new Queue(name, { connection: server.connect(), prefix })
  t.teardown(() => queue.close())
  return queue
}
