import { setTimeout as delay } from 'node:timers/promises'
import t from 'tap'
import { startGateway, type TestGateway } from '../gateway.ts'
import {
  all,
  cancel,
  eventsIn,
  get,
  isProblem,
  jobIn,
  openSocket,
  parse,
  putCallback,
  submit,
} from './clients.ts'

const types = {
  echo: { steps: ['echo'], attempts: 1 },
  idle: { steps: ['idle'] },
  fair: { steps: ['fair'], fair: true },
}
/** Much more than it takes, much less than a request would be kept waiting. */
const PROMPT_MS = 10_000

async function isReady(gateway: TestGateway) {
  while ((await get(gateway, '/readyz')).status !== 200) await delay(50)
}

t.test(
  'without Redis every answer is a prompt 503 that says when to try again, and then all goes on',
  async (t) => {
    const gateway = await startGateway(t, types)
    await gateway.work('echo', async (job) => job.data as unknown)
    const { job_id: id, links } = await submit(gateway, { type: 'idle' })
    const socket = await openSocket(t, gateway.url)
    const stream = eventsIn(await get(gateway, links.events))
    t.equal(parse((await stream.next()).value as string).seq, 1)

    await gateway.redis.stop()
    const startedAt = Date.now()
    const answers = {
      post: () => gateway.post({ type: 'idle' }),
      'post with a key': () => gateway.post({ type: 'idle' }, { 'idempotency-key': 'k' }),
      'post with a wait': () => gateway.post({ type: 'idle' }, { prefer: 'wait=30' }),
      'post for a stream': () => gateway.post({ type: 'idle' }, { accept: 'text/event-stream' }),
      get: () => get(gateway, links.self),
      'long poll': () => get(gateway, links.self, { prefer: 'wait=30' }),
      events: () => get(gateway, links.events),
      page: () => get(gateway, links.events, { accept: 'application/json' }),
      result: () => get(gateway, `${links.self}/result`),
      list: () => get(gateway, '/jobs'),
      cancel: () => cancel(gateway, id),
      callback: () => putCallback(gateway, id, { callback_url: 'http://127.0.0.1:9/' }),
    }
    for (const [name, ask] of Object.entries(answers)) {
      const response = await ask()
      t.match(response.headers.get('retry-after'), /^[1-9]\d*$/, name)
      await isProblem(t, response, 'store_unavailable')
    }
    socket.send({ op: 'submit', ref: 1, job: { type: 'idle' } })
    t.match(await socket.frame(), {
      op: 'error',
      ref: 1,
      problem: { code: 'store_unavailable', status: 503 },
    })
    t.ok(Date.now() - startedAt < PROMPT_MS, 'all of that together')

    const ready = await get(gateway, '/readyz')
    t.ok(ready.headers.has('retry-after'))
    t.match(await isProblem(t, ready, 'store_unavailable'), { detail: /redis/i })
    t.equal((await get(gateway, '/livez')).status, 200, 'the process lives')
    await isProblem(t, await gateway.post({ type: 'nothing' }), 'invalid')

    await gateway.redis.start()
    await isReady(gateway)
    t.equal((await cancel(gateway, id)).status, 200)
    t.same(
      (await all(stream)).map((text) => parse(text).type),
      ['job.canceled'],
      'the stream that was open goes on',
    )
    const echo = await gateway.post({ type: 'echo', input: 'back' }, { prefer: 'wait=30' })
    t.match(await jobIn(echo), { status: 'completed', result: 'back' })
    const { jobs } = (await (await get(gateway, '/jobs?type=idle')).json()) as { jobs: unknown[] }
    t.equal(jobs.length, 1, 'what was refused was not made')
  },
)

t.test('a Redis that hangs is a prompt 503 as well', async (t) => {
  const gateway = await startGateway(t, types)
  process.kill(gateway.redis.pid, 'SIGSTOP')
  t.teardown(() => process.kill(gateway.redis.pid, 'SIGCONT'))
  const startedAt = Date.now()
  const response = await gateway.post({ type: 'idle' })
  t.ok(Date.now() - startedAt < PROMPT_MS)
  t.match(response.headers.get('retry-after'), /^[1-9]\d*$/)
  await isProblem(t, response, 'store_unavailable')
  await isProblem(t, await get(gateway, '/readyz'), 'store_unavailable')
  process.kill(gateway.redis.pid, 'SIGCONT')
  await isReady(gateway)
})

t.test('a Redis that may evict what it was given is not ready', async (t) => {
  const gateway = await startGateway(t, types)
  await gateway.redis.connect().config('SET', 'maxmemory-policy', 'allkeys-lru')
  const problem = await isProblem(t, await get(gateway, '/readyz'), 'store_unavailable')
  t.match(problem.detail, /noeviction/)
})

t.test('a full Redis is a 503, and not ready', async (t) => {
  const gateway = await startGateway(t, types)
  await gateway.redis.connect().config('SET', 'maxmemory', '1')
  for (const job of [{ type: 'idle' }, { type: 'fair' }, { type: 'fair', delay_ms: 60_000 }]) {
    const response = await gateway.post(job)
    t.match(response.headers.get('retry-after'), /^[1-9]\d*$/)
    await isProblem(t, response, 'store_unavailable')
  }
  t.match((await isProblem(t, await get(gateway, '/readyz'), 'store_unavailable')).detail, /full/)
})

t.test(
  'a gateway that shuts down answers what it holds with what there is, and ends its streams',
  async (t) => {
    const gateway = await startGateway(t, types)
    const { links } = await submit(gateway, { type: 'idle' })
    const stream = await get(gateway, links.events)
    const events = eventsIn(stream)
    await events.next()
    const held = [
      get(gateway, links.self, { prefer: 'wait=50' }),
      gateway.post({ type: 'idle' }, { prefer: 'wait=50' }),
    ]
    // The second job is there when its POST is held.
    while (((await (await get(gateway, '/jobs')).json()) as { jobs: [] }).jobs.length < 2) await delay(10)
    const closed = gateway.app.close()
    t.ok((await events.next()).done)
    t.same(
      (await Promise.all(held)).map(({ status }) => status),
      [200, 202],
    )
    await closed
  },
)
