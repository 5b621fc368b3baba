import t from 'tap'
import { Webhook } from 'standardwebhooks'
import { all, isDelivered, isTerminal, ndjson, poll, seqOf, sse, startReceiver, websocket } from './modes.ts'
import { order, secret, startGatewayProcess, submit } from './processes.ts'
import { startRedis } from './redis.ts'

t.test('the order pipeline is heard in all four modes at once, byte for byte the same', async (t) => {
  const redis = await startRedis(t)
  const gateway = await startGatewayProcess(t, { redis })
  const receiver = await startReceiver(t)
  const id = await submit(gateway.url, { ...order, callback_url: receiver.url, callback_events: ['*'] })

  const [byWebhook, bySse, ...others] = await Promise.all([
    receiver.complete,
    all(sse(gateway.url, id, 0)),
    all(ndjson(gateway.url, id, 0)),
    all(poll(gateway.url, id, 0)),
    all(websocket(gateway.url, id, 0)),
  ])

  t.same(
    bySse.map(seqOf),
    Array.from(bySse, (_, index) => index + 1),
    'numbered 1..n without a hole',
  )
  t.same(
    bySse
      .map((text) => (JSON.parse(text) as { type: string }).type)
      .filter((type) => type !== 'job.progress'),
    [
      'job.queued',
      'step.started',
      'step.completed',
      'step.started',
      'step.completed',
      'step.started',
      'step.retrying',
      'step.started',
      'step.completed',
      'step.started',
      'job.completed',
    ],
    'four steps, the flaky carrier retried',
  )
  t.equal(bySse.filter(isTerminal).length, 1)
  for (const transcript of others) t.same(transcript, bySse)
  t.ok(isDelivered(byWebhook, bySse), 'webhook')

  for (const { id: webhookId, headers, body } of receiver.received) {
    t.equal(webhookId, `${id}.${seqOf(body)}`)
    t.doesNotThrow(() => new Webhook(secret).verify(body, headers))
  }
})

t.test('a subscriber that comes after the end sees what one from the start saw', async (t) => {
  const redis = await startRedis(t)
  const gateway = await startGatewayProcess(t, { redis })
  const id = await submit(gateway.url, { type: 'countdown', input: { from: 5, interval_ms: 10 } })
  const early = await all(sse(gateway.url, id, 0))

  for (const mode of [sse, ndjson, poll, websocket])
    t.same(await all(mode(gateway.url, id, 0)), early, mode.name)
  const receiver = await startReceiver(t)
  const attached = await fetch(`${gateway.url}/jobs/${id}/callback`, {
    method: 'PUT',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ callback_url: receiver.url, callback_events: ['*'] }),
  })
  t.equal(attached.status, 200)
  t.ok(isDelivered(await receiver.complete, early), 'webhook')
})

t.test('20 concurrent POSTs with one Idempotency-Key make one job', async (t) => {
  const redis = await startRedis(t)
  const [one, other] = await Promise.all([
    startGatewayProcess(t, { redis }),
    startGatewayProcess(t, { redis, roles: 'http' }),
  ])
  const ids = await Promise.all(
    Array.from({ length: 20 }, (_, index) =>
      submit(
        index % 2 ? one.url : other.url,
        { type: 'echo', input: 1, delay_ms: 60_000 },
        { 'idempotency-key': 'k' },
      ),
    ),
  )
  t.equal(new Set(ids).size, 1)
  const list = (await (await fetch(`${one.url}/jobs`)).json()) as { jobs: unknown[] }
  t.equal(list.jobs.length, 1)
  t.equal(await redis.connect().zcard(`${redis.prefix}:echo:delayed`), 1)
})
