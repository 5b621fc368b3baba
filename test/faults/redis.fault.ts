import { setTimeout as delay } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { startGatewayProcess, submit } from '../e2e/processes.ts'
import { all, isTerminal, ndjson } from '../e2e/modes.ts'
import { startRedis } from '../helper.ts'
import { startLoad } from './load.ts'
import { settle, times } from './report.ts'

const job = { type: 'countdown', input: { from: 3, interval_ms: 20 } }

t.test('a Redis that hangs is a 503 at once, and everything goes on when it wakes', async (t) => {
  const redis = await startRedis(t)
  const gateway = await startGatewayProcess(t, { redis })
  const load = startLoad({ urls: [gateway.url], concurrency: 16, job })
  const recoveriesMs: number[] = []
  for (const hangMs of [3_000, times(30_000, 8_000)]) {
    await load.whenAccepted(load.accepted.length + 300)
    process.kill(redis.pid, 'SIGSTOP')
    await delay(100)
    await refuses(t, gateway.url)
    await delay(hangMs)
    process.kill(redis.pid, 'SIGCONT')
    recoveriesMs.push(await whenReady(t, gateway.url))
    await load.whenAccepted(load.accepted.length + 1)
  }
  await settle(t, 'Redis hung', load, { url: gateway.url, recoveriesMs })
})

t.test('a full Redis is a 503 at once, and everything goes on when it has room', async (t) => {
  const redis = await startRedis(t)
  const gateway = await startGatewayProcess(t, { redis })
  const client = redis.connect()
  const load = startLoad({ urls: [gateway.url], concurrency: 16, job })
  await load.whenAccepted(300)
  await client.config('SET', 'maxmemory', '1')
  await refuses(t, gateway.url)
  await delay(2_000)
  await client.config('SET', 'maxmemory', '0')
  const recoveriesMs = [await whenReady(t, gateway.url)]
  await load.whenAccepted(load.accepted.length + 300)
  await settle(t, 'Redis full', load, { url: gateway.url, recoveriesMs })
})

t.test('a result queue that is cut before it was read is noticed, and every job is repaired', async (t) => {
  const redis = await startRedis(t)
  const gateway = await startGatewayProcess(t, { redis, roles: 'http,workers' })
  const client = redis.connect()
  const ids: string[] = []
  // The collector is off: whatever the workers tell waits in the result queue, and most of it is cut.
  const first = await startGatewayProcess(t, { redis, roles: 'collect' })
  ids.push(await submit(gateway.url, job))
  await all(ndjson(gateway.url, ids[0] ?? '', 0))
  // The collector has read something by now, so it has a cursor to be cut past.
  first.child.kill('SIGTERM')
  await first.exited
  while (ids.length < 200) ids.push(await submit(gateway.url, job))
  while ((await client.zcard('bull:countdown:completed')) < 200) await delay(50)
  await client.xtrim('bull:countdown:events', 'MAXLEN', '=', 5)

  const since = Date.now()
  const second = await startGatewayProcess(t, { redis, roles: 'http,collect' })
  await second.waitForLine(/cut past the cursor/)
  const journals = await Promise.all(ids.map((id) => all(ndjson(gateway.url, id, 0))))
  const ended = journals.filter((events) => events.filter(isTerminal).length === 1)
  t.comment(`result queue cut: 200 accepted, ${ended.length} ended · recovery ${Date.now() - since} ms`)
  t.equal(ended.length, 200)
  const metrics = await (await fetch(`${second.url}/metrics`)).text()
  t.match(metrics, 'quartet_result_queue_cuts_total{queue="countdown"} 1', 'it is counted')
})

async function refuses(t: Test, url: string): Promise<void> {
  const since = Date.now()
  const answer = await fetch(`${url}/jobs`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify(job),
  })
  t.equal(answer.status, 503)
  t.ok(answer.headers.has('retry-after'))
  t.match(await answer.json(), { code: 'store_unavailable' })
  // The design's bound on a hang, not a measure of speed.
  t.ok(Date.now() - since < 2_000, 'within 2 s')
  t.equal((await fetch(`${url}/readyz`)).status, 503)
}

/** @returns how long it took, in milliseconds */
async function whenReady(t: Test, url: string): Promise<number> {
  const since = Date.now()
  while ((await fetch(`${url}/readyz`)).status !== 200) await delay(50)
  const tookMs = Date.now() - since
  t.ok(tookMs <= 15_000, 'ready again in time')
  return tookMs
}
