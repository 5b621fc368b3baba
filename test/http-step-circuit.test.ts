import { once } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import { Queue } from 'bullmq'
import { pino } from 'pino'
import t, { type Test } from 'tap'
import { startHttpSteps, type HttpSteps } from '../src/call/http-steps.ts'
import { parseCatalog } from '../src/catalog.ts'
import { createConnect } from '../src/store/redis/connect.ts'
import { createRedisStore } from '../src/store/redis/redis-store.ts'
import { cancel, ended, get, submit } from './conformance/clients.ts'
import { startGateway, type TestGateway } from './gateway.ts'
import { startService, type ReceivedCall } from './service.ts'

/*
 * What becomes of jobs while a service keeps failing, and when the process that calls it ends. The steps run in this
 * process, beside the gateway, so that they can be started and closed by themselves.
 */

const FAILURES_TO_OPEN = 10
const LONG_MS = 60_000
const down = (call: ReceivedCall) => call.answer(503)
const up = (call: ReceivedCall) => call.answer(200, 'true')

t.test(
  'ten failures open a service’s circuit: jobs wait with all their attempts, and lose none',
  async (t) => {
    const { gateway, service, startSteps } = await start(t, { attempts: 2, concurrency: 4 })
    service.behave(down)
    const ids = await submitMany(gateway, FAILURES_TO_OPEN * 2)
    const first = await startSteps({ circuitWaitsMs: [LONG_MS] })
    await until(async () => (await openServices(gateway)).includes(service.url))
    // Ten calls, and those that were under way.
    const calls = service.calls()
    t.ok(calls >= FAILURES_TO_OPEN && calls < FAILURES_TO_OPEN + 4, `${calls} calls`)

    await first.close()
    t.equal(service.calls(), calls)
    service.behave(up)
    await startSteps({ circuitWaitsMs: [LONG_MS] })
    const journals = await Promise.all(ids.map((id) => ended(gateway, id)))
    const types = journals.map((events) => events.map(({ type }) => type))
    const failed = types.filter((each) => each.at(-1) === 'job.failed').length
    const retries = types.flat().filter((type) => type === 'step.retrying').length
    t.ok(failed * 2 + (retries - failed) <= calls + 4, 'no attempt failed but by a call, or by the close')
    t.ok(failed <= FAILURES_TO_OPEN / 2, `${failed} failed, before it opened`)
    t.equal(types.filter((each) => each.at(-1) === 'job.completed').length, ids.length - failed)
  },
)

t.test(
  'while it is open a job neither fails nor retries; it says what it waits for, and completes',
  async (t) => {
    const { gateway, service, startSteps } = await start(t, { attempts: 1 })
    await startSteps({ circuitWaitsMs: [1] })
    service.behave(null)
    const lost = await submitMany(gateway, FAILURES_TO_OPEN - 1)
    for (const _ of lost) down(await service.next())
    for (const id of lost) t.match((await ended(gateway, id)).at(-1), { type: 'job.failed' })

    const [id = ''] = await submitMany(gateway, 1)
    // The call that opens it, and calls to see whether the service is back.
    for (let n = 0; n < 5; n++) down(await service.next())
    const call = await service.next()
    t.strictSame(await openServices(gateway), [service.url])
    t.equal(call.headers['idempotency-key'], `${id}.payment`)
    up(call)
    const events = await ended(gateway, id)
    t.strictSame(
      events.map(({ type }) => type),
      ['job.queued', 'step.started', 'job.progress', 'job.completed'],
    )
    t.match(events[2]?.data, { message: /^waiting for the service/ })
    await until(async () => (await openServices(gateway)).length === 0)
  },
)

t.test('a job that waits for a circuit can be canceled, and expires at its deadline', async (t) => {
  const { gateway, service, startSteps } = await start(t, { attempts: 1 })
  await startSteps({ circuitWaitsMs: [LONG_MS] })
  service.behave(down)
  await Promise.all((await submitMany(gateway, FAILURES_TO_OPEN - 1)).map((id) => ended(gateway, id)))
  const [canceled = ''] = await submitMany(gateway, 1)
  await until(async () => (await openServices(gateway)).length === 1)
  const { job_id: expired } = await submit(gateway, { type: 'order', deadline_ms: 500 })
  t.equal((await cancel(gateway, canceled)).status, 202)
  t.match((await ended(gateway, canceled)).at(-1), { type: 'job.canceled' })
  t.match((await ended(gateway, expired)).at(-1), { type: 'job.expired' })
  t.equal(service.calls(), FAILURES_TO_OPEN)
})

t.test('a service that answers, if only with 4xx or 429, opens nothing', async (t) => {
  const { gateway, service, startSteps } = await start(t, { attempts: 1 })
  await startSteps({ circuitWaitsMs: [LONG_MS] })
  let calls = 0
  service.behave((call) => call.answer(calls++ % 2 === 0 ? 429 : 404))
  for (const id of await submitMany(gateway, FAILURES_TO_OPEN * 2)) await ended(gateway, id)
  t.equal(service.calls(), FAILURES_TO_OPEN * 2)
  t.strictSame(await openServices(gateway), [])
})

t.test(
  'a close lets calls end that soon do, and gives the others’ jobs back with their attempts',
  async (t) => {
    const { gateway, service, startSteps, queue } = await start(t, { attempts: 1 })
    const steps = await startSteps()
    const [short = '', long = ''] = await submitMany(gateway, 2)
    const calls = [await service.next(), await service.next()]
    const of = (id: string) => calls.find(({ headers }) => headers['x-correlation-id'] === id)
    const closed = steps.close()
    const [next = ''] = await submitMany(gateway, 1)
    of(short)?.answer(200, '"done"')
    t.match((await ended(gateway, short)).at(-1), { type: 'job.completed' })
    await closed
    await of(long)?.closed
    t.match(await queue.getJob(long), { attemptsMade: 0 })
    t.equal(await queue.getJobState(long), 'waiting')
    t.equal(await queue.getJobState(next), 'waiting')

    service.behave(up)
    await startSteps()
    t.match((await ended(gateway, next)).at(-1), { type: 'job.completed' })
    const events = await ended(gateway, long)
    t.strictSame(
      events.map(({ type }) => type),
      ['job.queued', 'step.started', 'step.retrying', 'step.started', 'job.completed'],
    )
    t.match(events[2]?.data, { reason: 'the worker put it back', delay_ms: 0 })
  },
)

/** A gateway whose type `order` has one step, `payment`, the service; `startSteps` runs what calls it. */
async function start(
  t: Test,
  { attempts = 1, concurrency = 10 }: { attempts?: number; concurrency?: number },
) {
  const service = await startService(t)
  const step = { queue: 'payment', http: { url: `${service.url}/pay`, concurrency }, attempts, backoff_ms: 1 }
  const types = { order: { steps: [step] } }
  const gateway = await startGateway(t, types)
  const { redis } = gateway
  const connect = createConnect(redis.url, () => undefined)
  const client = connect('command')
  await once(client, 'ready')
  const store = createRedisStore(client, connect)
  const queue = new Queue('payment', { connection: redis.connect() })
  t.teardown(async () => {
    await queue.close()
    await store.close()
    client.disconnect()
  })

  async function startSteps(options: { circuitWaitsMs?: number[] } = {}): Promise<HttpSteps> {
    const { services } = parseCatalog({ types: structuredClone(types) })
    const log = pino({ level: 'silent' })
    const steps = startHttpSteps({ services, store, connect, prefix: 'bull', log, ...options })
    t.teardown(() => steps.close())
    return steps
  }
  return { gateway, service, queue, startSteps }
}

async function submitMany(gateway: TestGateway, count: number): Promise<string[]> {
  const jobs = await Promise.all(Array.from({ length: count }, () => submit(gateway, { type: 'order' })))
  return jobs.map(({ job_id: id }) => id)
}

/** The services that GET /metrics shows to be open. */
async function openServices(gateway: TestGateway): Promise<string[]> {
  const text = await (await get(gateway, '/metrics')).text()
  return [...text.matchAll(/^quartet_service_circuit_open\{origin="([^"]+)"\} 1$/gm)].map(
    ([, origin = '']) => origin,
  )
}

/** /metrics tells nobody when it changes. */
async function until(holds: () => Promise<boolean>): Promise<void> {
  while (!(await holds())) await sleep(20)
}
