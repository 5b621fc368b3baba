import { once } from 'node:events'
import t from 'tap'
import { WebSocket } from 'ws'
import { startGateway } from '../gateway.ts'

t.test('a page of another origin gets no WebSocket, as a browser would let it have one', async (t) => {
  const { url } = await startGateway(t, { hello: { steps: ['hello'] } })
  const address = `${url.replace('http', 'ws')}/ws`
  const foreign = new WebSocket(address, 'quartet.v1', { origin: 'https://evil.example' })
  t.equal((await once(foreign, 'close'))[0], 4403)

  const own = new WebSocket(address, 'quartet.v1', { origin: url })
  await once(own, 'open')
  own.send('{"op":"init"}')
  t.match(String((await once(own, 'message'))[0]), /"op":"ready"/)
  own.terminate()
})

t.test('a body full of faults is answered with the first hundred of them', async (t) => {
  const numbers = { type: 'array', items: { type: 'string' } }
  const gateway = await startGateway(t, { many: { steps: ['many'], input: numbers } })
  const some = await gateway.post({ type: 'many', input: Array.from({ length: 1_000 }, () => 0) })
  t.equal(some.status, 422)
  t.equal(((await some.json()) as { errors: unknown[] }).errors.length, 100)

  const huge = await gateway.post({ type: 'many', input: Array.from({ length: 400_000 }, () => 0) })
  t.equal(huge.status, 422)
  t.equal(((await huge.json()) as { errors: unknown[] }).errors.length, 1)

  const events = await gateway.post({
    type: 'many',
    input: [],
    callback_events: Array.from({ length: 400_000 }, () => 0),
  })
  t.equal(events.status, 422)
  t.match(await events.json(), { errors: [{ path: '/callback_events' }] })
})

t.test('a path that cannot be read is a problem like any other', async (t) => {
  const { url } = await startGateway(t, { hello: { steps: ['hello'] } })
  for (const [path, status] of [
    ['/jobs/%zz', 400],
    [`/jobs/${'a'.repeat(200)}`, 404],
  ] as const) {
    const answer = await fetch(url + path)
    t.equal(answer.status, status)
    t.match(answer.headers.get('content-type'), /^application\/problem\+json/)
  }
})

t.test('a request to cancel may bring whatever body', async (t) => {
  const gateway = await startGateway(t, { later: { steps: ['later'] } })
  for (const headers of [{ 'content-type': 'application/json' }, { 'content-type': 'text/plain' }, {}]) {
    const { job_id: id } = (await (await gateway.post({ type: 'later', delay_ms: 60_000 })).json()) as {
      job_id: string
    }
    const answer = await fetch(`${gateway.url}/jobs/${id}/cancel`, {
      method: 'POST',
      headers,
      body: 'content-type' in headers ? '' : null,
    })
    t.equal(answer.status, 200)
    t.match(await answer.json(), { status: 'canceled' })
  }
})

t.test(
  'a job accepted by its key stays when its queue cannot be reached, and a retry goes on with it',
  async (t) => {
    const gateway = await startGateway(t, { keyed: { steps: ['keyed'] } })
    const admin = gateway.redis.connect()
    // Writes of BullMQ's are refused, those of the store are not: the crash window between the two, held open. There is
    // one for jobs with a priority, which are enqueued by themselves.
    await admin.acl('SETUSER', 'default', 'resetkeys', '~{quartet}*')
    const headers = { 'idempotency-key': 'k' }
    const body = { type: 'keyed', input: 1, priority: 1 }
    const first = await gateway.post(body, headers)
    t.not(first.status, 202)
    await admin.acl('SETUSER', 'default', 'allkeys')

    const second = await gateway.post(body, headers)
    t.equal(second.status, 202)
    t.equal(second.headers.get('idempotent-replayed'), 'true')
    const { job_id: id } = (await second.json()) as { job_id: string }
    await gateway.work('keyed', async () => 'done')
    const job = await fetch(`${gateway.url}/jobs/${id}?after=2`, { headers: { prefer: 'wait=20' } })
    t.match(await job.json(), { status: 'completed', result: 'done' })
  },
)

t.test('a queue that is first used while Redis hangs works when it wakes', async (t) => {
  const gateway = await startGateway(t, { warm: { steps: ['warm'] }, cold: { steps: ['cold'] } })
  t.equal((await gateway.post({ type: 'warm' })).status, 202)
  process.kill(gateway.redis.pid, 'SIGSTOP')
  t.equal((await gateway.post({ type: 'cold' })).status, 503)
  process.kill(gateway.redis.pid, 'SIGCONT')
  let status = 503
  for (const until = Date.now() + 20_000; status === 503 && Date.now() < until;) {
    status = (await gateway.post({ type: 'cold' })).status
  }
  t.equal(status, 202)
})
