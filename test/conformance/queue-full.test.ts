import t from 'tap'
import { startGateway } from '../gateway.ts'
import { cancel, ended, get, isProblem, leadWorker, openSocket, submit } from './clients.ts'

const types = { narrow: { steps: ['narrow'], attempts: 1, max_waiting: 3 }, wide: { steps: ['narrow'] } }
const narrow = { type: 'narrow', input: 1 }

t.test('when as many jobs wait as may, the next is refused and told when to come again', async (t) => {
  const gateway = await startGateway(t, types)
  const waiting = [
    await submit(gateway, narrow),
    await submit(gateway, narrow),
    await submit(gateway, narrow),
  ]
  const refused = await gateway.post(narrow)
  const problem = await isProblem(t, refused.clone(), 'queue_full')
  t.equal(problem.retry_after, Number(refused.headers.get('retry-after')))
  t.ok(Number(problem.retry_after) >= 1)
  const { jobs } = (await (await get(gateway, '/jobs')).json()) as { jobs: object[] }
  t.equal(jobs.length, 3, 'nothing of it is kept')
  t.equal((await gateway.post({ type: 'wide' })).status, 202, 'another type has room')

  const { send, frame } = await openSocket(t, gateway.url)
  send({ op: 'submit', ref: 1, job: narrow })
  t.match(await frame(), { op: 'error', ref: 1, problem: { code: 'queue_full', retry_after: Number } })

  const attempts = await leadWorker(gateway, 'narrow', { concurrency: 1 })
  const first = await attempts.next()
  t.equal(first.job.id, waiting[0]?.job_id)
  // The worker has it; the gateway hears of it a moment later.
  const stream = await get(gateway, `/jobs/${first.job.id}?after=1`, { prefer: 'wait=10' })
  t.match(await stream.json(), { status: 'running' })
  t.equal((await gateway.post(narrow)).status, 202, 'what runs does not wait')
  await isProblem(t, await gateway.post(narrow), 'queue_full')
})

t.test('a canceled job makes room', async (t) => {
  const gateway = await startGateway(t, types)
  const waiting = [
    await submit(gateway, narrow),
    await submit(gateway, narrow),
    await submit(gateway, narrow),
  ]
  await isProblem(t, await gateway.post(narrow), 'queue_full')
  await cancel(gateway, waiting[1]?.job_id ?? '')
  await ended(gateway, waiting[1]?.job_id ?? '')
  t.equal((await gateway.post(narrow)).status, 202)
})

t.test('a refused job reaches no worker, however many are submitted at once', async (t) => {
  const gateway = await startGateway(t, types)
  const answers = await Promise.all(Array.from({ length: 40 }, () => gateway.post(narrow)))
  const accepted = answers.filter(({ status }) => status === 202)
  t.equal(accepted.length, 3)
  t.equal(answers.filter(({ status }) => status === 503).length, 37)
  const client = gateway.redis.connect()
  t.equal(await client.llen('bull:narrow:wait'), 3)
})

t.test('a key whose request was refused can be used again', async (t) => {
  const gateway = await startGateway(t, types)
  const keyed = (key: string) => gateway.post(narrow, { 'idempotency-key': key })
  const first = (await (await keyed('a')).json()) as { job_id: string }
  for (const key of ['b', 'c']) t.equal((await keyed(key)).status, 202)
  await isProblem(t, await keyed('d'), 'queue_full')
  t.equal((await keyed('b')).status, 202, 'what was accepted is answered again')
  await cancel(gateway, first.job_id)
  t.equal((await keyed('d')).status, 202)
})
