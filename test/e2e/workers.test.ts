import { readFile } from 'node:fs/promises'
import t from 'tap'
import { spawnProcess } from '../helper.ts'
import { all, sse } from './modes.ts'
import { startGatewayProcess, submit } from './processes.ts'
import { startRedis } from './redis.ts'

type Event = { type: string; data: Record<string, unknown> }
const parse = (text: string) => JSON.parse(text) as Event

t.test('a BullMQ worker of five lines, with no import from Quartet, serves a type', async (t) => {
  const redis = await startRedis(t)
  const gateway = await startGatewayProcess(t, {
    redis,
    types: { greet: { steps: ['greet'] } },
    roles: 'http,collect',
  })
  const path = redis.plainWorker
  const source = await readFile(path, 'utf8')
  t.ok(source.trim().split('\n').length <= 5)
  t.notMatch(source, /quartet|\.\.\//i)
  spawnProcess(t, ['node', path], { env: { REDIS_PORT: String(redis.port) } })

  const events = await all(
    sse(gateway.url, await submit(gateway.url, { type: 'greet', input: { name: 'Ada' } }), 0),
  )
  t.match(parse(events.at(-1) ?? ''), { type: 'job.completed', data: { result: { hello: 'Ada' } } })
})

t.test(
  'a job whose worker is killed in mid job completes on another, and the journal shows the retry',
  async (t) => {
    const redis = await startRedis(t)
    const gateway = await startGatewayProcess(t, { redis, roles: 'http,collect' })
    const startWorkers = () => startGatewayProcess(t, { redis, roles: 'workers' })
    const victim = await startWorkers()
    const id = await submit(gateway.url, { type: 'countdown', input: { from: 20, interval_ms: 100 } })

    const events: Event[] = []
    for await (const text of sse(gateway.url, id, 0)) {
      events.push(parse(text))
      if (
        events.filter(({ type }) => type === 'job.progress').length === 3 &&
        victim.child.exitCode === null
      ) {
        victim.child.kill('SIGKILL')
        await victim.exited
        await startWorkers()
      }
    }
    const retry = events.find(({ type }) => type === 'step.retrying')
    t.match(retry, { data: { step: 'countdown', index: 0, attempt: 1, reason: 'the worker was lost' } })
    t.match(events.at(-1), {
      type: 'job.completed',
      data: { step: { attempt: 2 }, result: { liftoff: true } },
    })
  },
)
