import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { startService } from '../service.ts'
import { all, sse } from './modes.ts'
import { startGatewayProcess, submit } from './processes.ts'
import { startRedis } from './redis.ts'

type Event = { type: string; data: Record<string, unknown> }
const parse = (text: string) => JSON.parse(text) as Event

t.test(
  'an order goes through two services, called by processes that are ended in the middle of it',
  async (t) => {
    const redis = await startRedis(t)
    const [stock, payment] = [await startService(t), await startService(t)]
    const types = {
      order: {
        steps: [
          { http: { url: `${stock.url}/reservations` } },
          { queue: 'payment', http: { url: payment.url } },
        ],
      },
    }
    const gateway = await startGatewayProcess(t, { redis, types, roles: 'http,collect' })
    const startWorkers = () => startGatewayProcess(t, { redis, types, roles: 'workers' })
    const killed = await startWorkers()
    const id = await submit(gateway.url, { type: 'order', input: { order_id: 'A-1' } })

    const first = await stock.next()
    killed.child.kill('SIGKILL')
    await first.closed
    const ended = await startWorkers()
    const again = await stock.next()
    t.equal(again.headers['idempotency-key'], first.headers['idempotency-key'])
    t.equal(again.body, '{"order_id":"A-1"}')
    again.answer(200, '{"reserved":true}')

    const call = await payment.next()
    t.equal(call.body, '{"reserved":true}')
    ended.child.kill('SIGTERM')
    await call.closed
    t.same(await ended.exited, { code: 0, signal: null })
    await startWorkers()
    const last = await payment.next()
    t.equal(last.headers['idempotency-key'], `${id}.payment`)
    last.answer(200, { paid: true })

    const events = (await all(sse(gateway.url, id, 0))).map(parse)
    t.match(
      events.filter(({ type }) => type === 'step.retrying').map(({ data }) => data['reason']),
      ['the worker was lost', 'the worker put it back'],
    )
    t.match(events.at(-1), { type: 'job.completed', data: { result: { paid: true } } })
  },
)

t.test('the node that serves /metrics shows the circuit that a process without it has opened', async (t) => {
  const redis = await startRedis(t)
  const service = await startService(t)
  service.behave((call) => call.answer(500))
  const types = { order: { steps: [{ http: { url: service.url } }], backoff_ms: 1 } }
  const gateway = await startGatewayProcess(t, { redis, types, roles: 'http,collect' })
  const workers = await startGatewayProcess(t, { redis, types, roles: 'workers' })
  for (let n = 0; n < 10; n++) await submit(gateway.url, { type: 'order' })
  await workers.waitForLine(/a service keeps failing; its jobs wait/)
  const shown = `quartet_service_circuit_open{origin="${service.url}"} 1`
  while (!(await (await fetch(`${gateway.url}/metrics`)).text()).includes(shown)) await sleep(50)
  t.ok(service.calls() >= 10)
})
