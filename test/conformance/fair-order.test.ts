import { setImmediate as turn } from 'node:timers/promises'
import { Queue } from 'bullmq'
import t from 'tap'
import { startKeyedGateway, withKey } from '../keys.ts'
import { leadWorker, postBatch, submit, type Attempt } from './clients.ts'

const types = {
  route: { steps: ['one', 'two'] },
  quick: { steps: ['quick'] },
  plain: { steps: ['plain'], fair: false },
}
const gateway = await startKeyedGateway(t, types)
const node = await startKeyedGateway(t, types, { redis: gateway.redis })
const keyOf = async (tenant: string) => (await gateway.createKey({ tenant })).key
const [a, b, c] = [await keyOf('a'), await keyOf('b'), await keyOf('c')]
const client = gateway.redis.connect()

t.test('three thousand jobs of one tenant keep no other waiting, at any step, on any node', async (t) => {
  for (let n = 0; n < 3; n++) await batch(a, 'route', 1_000)
  const one = await leadWorker(gateway, 'one', { concurrency: 5 })
  let held = await take(one, 5)
  const late = await submit(withKey(node, b), { type: 'route' })
  const next: string[] = []
  for (let n = 0; n < 40; n++) {
    held.shift()?.complete()
    const attempt = await one.next()
    held.push(attempt)
    next.push(attempt.job.id ?? '')
  }
  t.ok(
    next.indexOf(late.job_id) >= 0 && next.indexOf(late.job_id) < 5,
    `it was the ${next.indexOf(late.job_id)}.`,
  )

  for (const attempt of held) attempt.complete()
  held = await take(one, 5)
  await until(async () => (await client.zcard('bull:two:prioritized')) === 45)
  const two = await leadWorker(gateway, 'two', { concurrency: 1 })
  const second = await two.next()
  second.complete()
  const started = [second.job.id, (await two.next()).job.id]
  t.ok(started.includes(late.job_id), 'nor at the second step')
})

t.test('three tenants share evenly, each with its jobs in their order', async (t) => {
  const ids = {
    a: await batch(a, 'quick', 90),
    b: await batch(b, 'quick', 60),
    c: await batch(c, 'quick', 60),
  }
  const quick = await leadWorker(gateway, 'quick', { concurrency: 1 })
  const started: string[] = []
  for (let n = 0; n < 150; n++) {
    const attempt = await quick.next()
    started.push(attempt.job.id ?? '')
    attempt.complete()
  }
  for (const own of Object.values(ids)) {
    t.strictSame(
      started.filter((id) => own.includes(id)),
      own.slice(0, 50),
    )
  }
  const attempt = await quick.next()

  // What is due has its turn then, as if it came then.
  const delayed = await batch(c, 'quick', 20, { delay_ms: 60_000 })
  const bull = new Queue('quick', { connection: client, skipVersionCheck: true })
  for (const id of delayed) await (await bull.getJob(id))?.promote()
  attempt.complete()
  const later = [await quick.next()]
  await until(async () => {
    const scores = await Promise.all(delayed.map((id) => client.zscore('bull:quick:prioritized', id)))
    return scores.every((score) => score !== null && Number(score) < 1_000 * 2 ** 32)
  })
  for (let n = 0; n < 69; n++) {
    later.at(-1)?.complete()
    later.push(await quick.next())
  }
  const isDelayed = later.map(({ job }) => delayed.includes(job.id ?? ''))
  t.notOk(isDelayed.slice(0, 30).includes(true), 'behind the jobs of its tenant that were there before')
  const lastOnes = later.slice(30).map(({ job }) => job.id ?? '')
  t.strictSame(
    lastOnes.filter((_, n) => isDelayed[30 + n]),
    delayed,
    'as many as the other tenant',
  )
})

t.test('a type that is not fair serves in the order in which jobs come', async (t) => {
  const [first, second] = [await batch(a, 'plain', 30), await batch(b, 'plain', 1)]
  const waiting = await client.lrange('bull:plain:wait', 0, -1)
  t.strictSame(waiting.toReversed(), [...first, ...second])
})

/** @returns the ids */
async function batch(key: string, type: string, count: number, more: object = {}): Promise<string[]> {
  const response = await postBatch(
    withKey(gateway, key),
    Array.from({ length: count }, () => ({ type, ...more })),
  )
  const { outcomes } = (await response.json()) as { outcomes: { job: { job_id: string } }[] }
  return outcomes.map(({ job }) => job.job_id)
}

async function take(attempts: { next(): Promise<Attempt> }, count: number): Promise<Attempt[]> {
  const taken: Attempt[] = []
  for (let n = 0; n < count; n++) taken.push(await attempts.next())
  return taken
}

async function until(holds: () => Promise<boolean>): Promise<void> {
  while (!(await holds())) await turn()
}
