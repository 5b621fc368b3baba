import t from 'tap'
import { startGatewayProcess } from './processes.ts'
import { startRedis } from './redis.ts'

interface Outcome {
  status: number
  job?: { job_id: string }
  replayed?: boolean
}

t.test('1,000 jobs of two types come into their queues in order, and each once', async (t) => {
  const redis = await startRedis(t)
  const types = { a: { steps: ['batch-a'] }, b: { steps: ['batch-b'] } }
  const { url } = await startGatewayProcess(t, { redis, types, roles: 'http' })
  const jobs = Array.from({ length: 1_000 }, (_, n) => ({
    type: n % 2 === 0 ? 'a' : 'b',
    input: n,
    ...(n % 10 === 0 && { idempotency_key: `${n % 500}`, input: n % 500 }),
    ...(n % 100 === 1 && { delay_ms: 60_000 }),
    ...(n % 100 === 3 && { priority: 7 }),
  }))
  const outcomes = await post()
  const replayed = outcomes.filter((outcome) => outcome.replayed)
  t.ok(outcomes.every(({ status }) => status === 202))
  t.equal(replayed.length, 50, 'of two items with one key the second is the first')
  const client = redis.connect()
  const queue = (name: string) => `${redis.prefix}:batch-${name}`
  for (const [name, isIn] of [
    ['a', (n: number) => n % 2 === 0 && !outcomes[n]?.replayed],
    ['b', (n: number) => n % 2 === 1 && n % 100 !== 1 && n % 100 !== 3],
  ] as const) {
    const expected = outcomes.filter((_, n) => isIn(n)).map(({ job }) => job?.job_id)
    t.strictSame((await client.lrange(`${queue(name)}:wait`, 0, -1)).toReversed(), expected)
  }
  const ids = (rest: number) => outcomes.filter((_, n) => n % 100 === rest).map(({ job }) => job?.job_id)
  t.strictSame(await client.zrange(`${queue('b')}:delayed`, '0', '-1'), ids(1))
  t.strictSame(await client.zrange(`${queue('b')}:prioritized`, '0', '-1'), ids(3))

  async function post(): Promise<Outcome[]> {
    const response = await fetch(`${url}/jobs/batch`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ jobs }),
    })
    t.equal(response.status, 200)
    return ((await response.json()) as { outcomes: Outcome[] }).outcomes
  }
})
