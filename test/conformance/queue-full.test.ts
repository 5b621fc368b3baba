import t from 'tap'
import { startGateway } from '../gateway.ts'
import { startKeyedGateway, withKey } from '../keys.ts'
import { cancel, ended, get, isProblem, leadWorker, openSocket, postBatch, submit } from './clients.ts'

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

t.test('a tenant whose own bound is met is refused, in every way to submit, and no other is', async (t) => {
  const bounded = { own: { steps: ['own'], attempts: 1, max_waiting: 10, max_waiting_per_tenant: 2 } }
  const job = { type: 'own' }
  const gateway = await startKeyedGateway(t, bounded)
  const other = await startKeyedGateway(t, bounded, { redis: gateway.redis })
  const [one, two] = [await gateway.as({ tenant: 'one' }), await gateway.as({ tenant: 'two' })]
  const first = (await (await one.post(job, { 'idempotency-key': 'first' })).json()) as { job_id: string }
  const elsewhere = withKey(other, one.headers['authorization']?.slice('Bearer '.length) ?? '')
  t.equal((await elsewhere.post(job)).status, 202)
  for (const node of [one, elsewhere]) {
    const refused = await node.post(job)
    const problem = await isProblem(t, refused.clone(), 'too_many_waiting')
    t.match(problem, { retry_after: 30, detail: '2 of your jobs of the type own wait already' })
    t.equal(refused.headers.get('retry-after'), '30', 'nothing starts')
  }
  // Stored first, and enqueued second.
  await isProblem(t, await one.post({ ...job, delay_ms: 60_000 }), 'too_many_waiting')
  const replayed = await one.post(job, { 'idempotency-key': 'first' })
  t.equal(replayed.status, 202)
  t.equal(replayed.headers.get('idempotent-replayed'), 'true')
  const { send, frame } = await openSocket(t, gateway.url, { headers: one.headers })
  send({ op: 'submit', ref: 1, job })
  t.match(await frame(), { op: 'error', ref: 1, problem: { code: 'too_many_waiting', retry_after: 30 } })

  const batch = await (await postBatch(two, [job, job, job, { ...job, idempotency_key: 'k' }])).json()
  t.match((batch as { outcomes: object[] }).outcomes, [
    { status: 202 },
    { status: 202 },
    { status: 429, problem: { code: 'too_many_waiting' } },
    { status: 429, problem: { code: 'too_many_waiting' } },
  ])

  await cancel(one, first.job_id)
  t.equal((await one.post(job)).status, 202, 'a canceled job makes room')
  await isProblem(t, await one.post(job), 'too_many_waiting')
  const attempts = await leadWorker(gateway, 'own', { concurrency: 4 })
  const started = [await attempts.next(), await attempts.next(), await attempts.next(), await attempts.next()]
  for (const attempt of started) {
    // The gateway has heard of it by then; to the other tenant there is no such job.
    const reads = await Promise.all(
      [one, two].map((each) => get(each, `/jobs/${attempt.job.id}?after=1`, { prefer: 'wait=10' })),
    )
    t.equal(reads.filter(({ status }) => status === 200).length, 1)
  }
  for (const tenant of [one, two]) {
    const answers = [await tenant.post(job), await tenant.post(job), await tenant.post(job)]
    t.strictSame(
      answers.map(({ status }) => status),
      [202, 202, 429],
      'as many as have started',
    )
  }
})
