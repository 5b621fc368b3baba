import { setTimeout as delay } from 'node:timers/promises'
import { Queue } from 'bullmq'
import t from 'tap'
import { startGatewayProcess, type GatewayProcess } from '../e2e/processes.ts'
import { startRedis } from '../helper.ts'
import { startLoad } from './load.ts'
import { settle, times } from './report.ts'

const job = { type: 'countdown', input: { from: 3, interval_ms: 20 } }

t.test('workers killed in mid job, one after another, lose no job', async (t) => {
  const redis = await startRedis(t)
  const gateway = await startGatewayProcess(t, { redis, roles: 'http,collect' })
  const queue = new Queue('countdown', { connection: redis.connect({ maxRetriesPerRequest: null }) })
  t.teardown(() => queue.close())
  const startWorkers = () => startGatewayProcess(t, { redis, roles: 'workers' })
  const workers = [await startWorkers(), await startWorkers()]
  const load = startLoad({ urls: [gateway.url], concurrency: 4, job })
  for (let kill = 1; kill <= times(100, 8); kill++) {
    // Both work, so the older one has jobs in hand.
    while ((await queue.getWorkersCount()) < 2) await delay(50)
    await load.whenAccepted(load.accepted.length + 40)
    workers.shift()?.child.kill('SIGKILL')
    workers.push(await startWorkers())
  }
  await settle(t, 'workers killed', load, { url: gateway.url })
})

t.test('gateways killed, one after another, lose no job', async (t) => {
  const redis = await startRedis(t)
  const gateway = await startGatewayProcess(t, { redis, roles: 'http,collect,workers' })
  let second: GatewayProcess = await startGatewayProcess(t, { redis, roles: 'http,collect' })
  const urls = [gateway.url, second.url]
  const load = startLoad({ urls, concurrency: 16, job })
  for (let kill = 1; kill <= times(20, 4); kill++) {
    await load.whenAccepted(load.accepted.length + 300)
    second.child.kill('SIGKILL')
    await second.exited
    second = await startGatewayProcess(t, { redis, roles: 'http,collect' })
    urls[1] = second.url
  }
  await settle(t, 'gateways killed', load, { url: gateway.url })
})

t.test('a Redis killed under load, and started again with its append-only file, loses no job', async (t) => {
  const redis = await startRedis(t)
  const gateway = await startGatewayProcess(t, { redis })
  const load = startLoad({ urls: [gateway.url], concurrency: 16, job })
  const recoveriesMs: number[] = []
  for (let kill = 1; kill <= times(10, 3); kill++) {
    await load.whenAccepted(load.accepted.length + 300)
    await redis.stop()
    await delay(500)
    await redis.start()
    const since = Date.now()
    await load.whenAccepted(load.accepted.length + 1)
    recoveriesMs.push(Date.now() - since)
  }
  await settle(t, 'Redis killed', load, { url: gateway.url, recoveriesMs })
})
