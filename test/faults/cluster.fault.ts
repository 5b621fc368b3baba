import { setTimeout as delay } from 'node:timers/promises'
import t from 'tap'
import { startGatewayProcess } from '../e2e/processes.ts'
import { startCluster } from '../redis-cluster.ts'
import { count, figures, startLoad } from './load.ts'
import { settle, times } from './report.ts'

const job = { type: 'countdown', input: { from: 3, interval_ms: 20 } }
/** What a master holds: everything of Quartet's, or everything of BullMQ's. */
const keys = ['{quartet}:due', '{bull}:countdown:meta']

for (const key of keys) {
  t.test(
    `a master that is killed and failed over loses nothing that replicas confirmed (${key})`,
    async (t) => {
      const cluster = await startCluster(t)
      const env = { QUARTET_WAIT_REPLICAS: '1' }
      const nodes = await Promise.all([
        startGatewayProcess(t, { redis: cluster, env }),
        startGatewayProcess(t, { redis: cluster, env }),
      ])
      const urls = nodes.map(({ url }) => url)
      const load = startLoad({ urls, concurrency: 16, job })
      const recoveriesMs: number[] = []
      for (let kill = 1; kill <= times(3, 1); kill++) {
        await load.whenAccepted(load.accepted.length + 300)
        const master = await cluster.masterOf(key)
        const since = Date.now()
        await master.stop()
        await whenSettled(() => cluster.masterOf(key), master)
        // Its one replica has taken over, so nothing can be confirmed before it comes back as a replica itself.
        await master.start()
        await load.whenAccepted(load.accepted.length + 1)
        recoveriesMs.push(Date.now() - since)
        await load.whenAccepted(load.accepted.length + 300)
        await cluster.whenOk()
      }
      await settle(t, `master of ${key} failed over, with WAIT`, load, { url: urls[0] ?? '', recoveriesMs })
    },
  )
}

t.test('without WAIT a failover may lose what was accepted last; what it keeps ends', async (t) => {
  const cluster = await startCluster(t)
  const gateway = await startGatewayProcess(t, { redis: cluster })
  const load = startLoad({ urls: [gateway.url], concurrency: 16, job })
  await load.whenAccepted(300)
  const [key = ''] = keys
  const master = await cluster.masterOf(key)
  await master.stop()
  await whenSettled(() => cluster.masterOf(key), master)
  await load.whenAccepted(load.accepted.length + 300)
  await load.stop()
  const counted = await count(gateway.url, load.accepted, 90_000)
  t.comment(`${figures('master failed over, without WAIT', load, counted)}, ${counted.missing.length} lost`)
  t.same(counted.unfinished, [], 'every job that is there has ended')
  t.same(counted.broken, [], 'every journal is 1..n with one terminal event, the last')
})

/** Resolves when another node is the master. */
async function whenSettled<T>(master: () => Promise<T>, old: T): Promise<void> {
  while ((await master().catch(() => old)) === old) await delay(50)
}
