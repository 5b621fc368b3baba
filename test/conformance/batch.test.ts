import t from 'tap'
import { startGateway, type TestGateway } from '../gateway.ts'
import { startKeyedGateway } from '../keys.ts'
import {
  ended,
  get,
  isInvalid,
  isProblem,
  jobIn,
  postBatch,
  startReceiver,
  type JobObject,
} from './clients.ts'

const types = {
  echo: { steps: ['echo'], attempts: 1 },
  idle: { steps: ['idle'] },
  picky: { steps: ['idle'], input: { type: 'object', required: ['n'] } },
  narrow: { steps: ['narrow'], max_waiting: 3 },
}
const gateway = await startGateway(t, types)
await gateway.work('echo', async (job) => job.data as unknown)

t.test('each item has an outcome of its own, in the order of the items', async (t) => {
  const response = await postBatch(gateway, [
    { type: 'echo', input: 1 },
    { type: 'nothing' },
    { type: 'picky', input: {} },
    'no object',
    { type: 'echo', input: 2, metadata: { n: '2' } },
    { type: 'idle', callback_url: 'http://10.0.0.1/' },
    { type: 'echo', input: 3, idempotency_key: 'tab\tbed' },
    { type: 'echo', input: 4, delay_ms: 1 },
    { type: 'echo', input: 5, priority: 3 },
  ])
  t.equal(response.status, 200)
  t.match(response.headers.get('content-type'), /^application\/json/)
  const { outcomes } = await batchIn(response)
  t.match(outcomes, [
    { status: 202, job: { type: 'echo', status: 'queued', seq: 1 } },
    { status: 422, problem: { code: 'invalid', errors: [{ path: '/type' }] } },
    { status: 422, problem: { code: 'invalid', errors: [{ path: '/input/n' }] } },
    { status: 422, problem: { code: 'invalid', errors: [{ path: '' }] } },
    { status: 202, job: { metadata: { n: '2' } } },
    { status: 422, problem: { code: 'invalid', errors: [{ path: '/callback_url' }] } },
    { status: 400, problem: { code: 'malformed_request' } },
    { status: 202 },
    { status: 202 },
  ])
  t.notOk(outcomes.some((outcome) => 'replayed' in outcome))
  const results = await Promise.all(
    [0, 4, 7, 8].map(
      async (at) => (await ended(gateway, outcomes[at]?.job?.job_id ?? '')).at(-1)?.data['result'],
    ),
  )
  t.strictSame(results, [1, 2, 4, 5])
})

t.test('what is accepted is the job as a POST of its own shows it', async (t) => {
  const { outcomes } = await batchIn(await postBatch(gateway, [{ type: 'idle', input: 1 }]))
  const job = outcomes[0]?.job
  t.strictSame(job, await jobIn(await get(gateway, job?.links.self ?? '')))
})

t.test('an item with a key is made once, within a batch and beside it', async (t) => {
  const [first, second, other] = [1, 1, 2].map((input) => ({ type: 'idle', input, idempotency_key: 'batch' }))
  const { outcomes } = await batchIn(await postBatch(gateway, [first, second, other, { type: 'idle' }]))
  t.match(outcomes, [
    { status: 202 },
    { status: 202, replayed: true, job: { job_id: outcomes[0]?.job?.job_id } },
    { status: 422, problem: { code: 'idempotency_mismatch' } },
    { status: 202 },
  ])
  t.notOk('replayed' in (outcomes[0] ?? {}))
  const single = await gateway.post({ type: 'idle', input: 1 }, { 'idempotency-key': 'batch' })
  t.equal(single.headers.get('idempotent-replayed'), 'true', 'the key is that of a POST')
  t.equal((await jobIn(single)).job_id, outcomes[0]?.job?.job_id)
  const again = await batchIn(await postBatch(gateway, [second, second]))
  t.match(again.outcomes, [{ replayed: true }, { replayed: true }])
})

t.test('a replay of a job that has ended is 200', async (t) => {
  const item = { type: 'echo', input: 'r', idempotency_key: 'ended' }
  const { outcomes } = await batchIn(await postBatch(gateway, [item]))
  await ended(gateway, outcomes[0]?.job?.job_id ?? '')
  const again = await batchIn(await postBatch(gateway, [item]))
  t.match(again.outcomes, [{ status: 200, replayed: true, job: { status: 'completed', result: 'r' } }])
})

t.test('of the items of a type exactly as many are accepted as may wait', async (t) => {
  const items = Array.from({ length: 5 }, () => ({ type: 'narrow' }))
  const { outcomes } = await batchIn(await postBatch(gateway, [...items, { type: 'idle' }]))
  t.strictSame(
    outcomes.map(({ status }) => status),
    [202, 202, 202, 503, 503, 202],
  )
  t.match(outcomes[3], { problem: { code: 'queue_full', retry_after: Number } })
})

t.test('a batch has 1 to 1,000 jobs and nothing else', async (t) => {
  await isInvalid(t, await postBatch(gateway, []), ['/jobs'])
  const items = Array.from({ length: 1_001 }, () => ({ type: 'idle' }))
  await isInvalid(t, await postBatch(gateway, items), ['/jobs'])
  await isInvalid(t, await send(gateway, '{}'), ['/jobs'])
  await isInvalid(t, await send(gateway, '{"jobs":{}}'), ['/jobs'])
  await isInvalid(t, await send(gateway, '[]'), [''])
  await isInvalid(t, await send(gateway, '{"jobs":[{"type":"idle"}],"type":"idle"}'), ['/type'])
  await isProblem(t, await send(gateway, '{"jobs":[1,'), 'malformed_json')
})

t.test('a key for the whole of a batch is refused, as there is none', async (t) => {
  const response = await send(gateway, '{"jobs":[{"type":"idle"}]}', { 'idempotency-key': 'k' })
  await isProblem(t, response, 'malformed_request')
})

t.test('the answer is JSON or 406', async (t) => {
  const response = await send(gateway, '{"jobs":[{"type":"idle"}]}', { accept: 'text/event-stream' })
  await isProblem(t, response, 'not_acceptable')
})

t.test('a batch may be larger than a job, up to 8 MiB', async (t) => {
  const input = 'x'.repeat(1_000_000)
  const { outcomes } = await batchIn(
    await postBatch(
      gateway,
      Array.from({ length: 8 }, () => ({ type: 'idle', input })),
    ),
  )
  t.ok(outcomes.every(({ status }) => status === 202))
  const nine = Array.from({ length: 9 }, () => ({ type: 'idle', input }))
  await isProblem(t, await postBatch(gateway, nine), 'payload_too_large')
})

t.test('1,000 jobs keep their order in their queue', async (t) => {
  const items = Array.from({ length: 1_000 }, (_, input) => ({ type: 'order', input }))
  const ordered = await startGateway(t, { order: { steps: ['order'] } })
  const { outcomes } = await batchIn(await postBatch(ordered, items))
  const ids = outcomes.map(({ job }) => job?.job_id ?? '')
  t.strictSame((await ordered.redis.connect().lrange('bull:order:wait', 0, -1)).toReversed(), ids)
  t.strictSame(ids.toSorted(), ids, 'and ids sort by it')
})

t.test('an item is told of by webhooks as any job', async (t) => {
  const receiver = await startReceiver(t)
  const items = [1, 2].map((input) => ({ type: 'echo', input, callback_url: receiver.url }))
  const { outcomes } = await batchIn(await postBatch(gateway, items))
  const delivered = [await receiver.next(), await receiver.next()].map(
    ({ body }) => (JSON.parse(body) as { job_id: string }).job_id,
  )
  t.strictSame(delivered.toSorted(), outcomes.map(({ job }) => job?.job_id ?? '').toSorted())
})

t.test('a key’s scopes are asked for once, its types for each item', async (t) => {
  const keyed = await startKeyedGateway(t, types)
  const reader = await keyed.as({ scopes: ['jobs:read'] })
  await isProblem(t, await postBatch(reader, [{ type: 'idle' }]), 'missing_scope')
  const writer = await keyed.as({ scopes: ['jobs:write'], types: ['idle'] })
  const { outcomes } = await batchIn(await postBatch(writer, [{ type: 'echo' }, { type: 'idle' }]))
  t.match(outcomes, [{ status: 403, problem: { code: 'type_not_allowed' } }, { status: 202 }])
})

t.test('while Redis is away each item is told so', async (t) => {
  const lonely = await startGateway(t, types)
  await lonely.redis.stop()
  const { outcomes } = await batchIn(await postBatch(lonely, [{ type: 'idle' }, { type: 'nothing' }]))
  t.match(outcomes, [
    { status: 503, problem: { code: 'store_unavailable', retry_after: Number } },
    { status: 422 },
  ])
})

interface Outcome {
  status: number
  job?: JobObject
  replayed?: true
  problem?: object
}

async function batchIn(response: Response): Promise<{ outcomes: Outcome[] }> {
  return (await response.json()) as { outcomes: Outcome[] }
}

function send({ url, headers }: TestGateway, body: string, more: Record<string, string> = {}) {
  return fetch(`${url}/jobs/batch`, {
    method: 'POST',
    headers: { ...headers, 'content-type': 'application/json', ...more },
    body,
  })
}
