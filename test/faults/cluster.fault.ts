import { setTimeout as delay } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { startGatewayProcess } from '../e2e/processes.ts'
import { startCluster, type TestCluster } from '../redis-cluster.ts'
import { count, figures, startLoad, type Load } from './load.ts'
import { settle, times } from './report.ts'

const job = { type: 'countdown', input: { from: 3, interval_ms: 20 } }
const quartetKey = '{quartet}:due'
const bullKey = '{bull}:countdown:meta'
/** How long a replica has been cut off when its master is killed: what only the master had by then is lost. */
const LAG_MS = 500

for (const [holding, key] of [
  ['Quartet’s keys', quartetKey],
  ['BullMQ’s keys', bullKey],
] as const) {
  t.test(`a killed master of ${holding} takes nothing with it that replicas had confirmed`, async (t) => {
    const { cluster, load, url } = await startNodes(t, { QUARTET_WAIT_REPLICAS: '1' })
    const recoveriesMs: number[] = []
    for (let kill = 1; kill <= times(3, 1); kill++) {
      await load.whenAccepted(load.accepted.length + 300)
      const since = Date.now()
      const master = await failOver(cluster, key)
      // Its one replica has taken over, so nothing can be confirmed before it comes back as a replica itself.
      await master.start()
      await load.whenAccepted(load.accepted.length + 1)
      recoveriesMs.push(Date.now() - since)
      await load.whenAccepted(load.accepted.length + 300)
      await cluster.whenOk()
    }
    await settle(t, `master of ${holding} failed over, WAIT 1`, load, { url, recoveriesMs })
  })
}

t.test('without WAIT a failover loses what was accepted last; what it keeps ends, once', async (t) => {
  const { cluster, load, url } = await startNodes(t, {})
  await load.whenAccepted(300)
  const since = Date.now()
  await failOver(cluster, quartetKey)
  await load.whenAccepted(load.accepted.length + 1)
  const recoveriesMs = [Date.now() - since]
  await load.whenAccepted(load.accepted.length + 300)
  await load.stop()
  const counted = await count(url, load.accepted, 90_000)
  const line = figures('master of Quartet’s keys failed over, no WAIT', load, counted, recoveriesMs)
  t.comment(`${line} · ${counted.missing.length} lost of the last ${LAG_MS} ms`)
  t.same(counted.unfinished, [], 'every job that is there has ended')
  t.same(counted.broken, [], 'every journal is 1..n with one terminal event, the last')
})

async function startNodes(
  t: Test,
  env: Record<string, string>,
): Promise<{ cluster: TestCluster; load: Load; url: string }> {
  const cluster = await startCluster(t)
  const start = () => startGatewayProcess(t, { redis: cluster, env })
  const urls = (await Promise.all([start(), start()])).map(({ url }) => url)
  return { cluster, load: startLoad({ urls, concurrency: 16, job }), url: urls[0] ?? '' }
}

/** Kills the master of a key while its replica is cut off. Resolves, with the dead, when the replica has taken over. */
async function failOver(cluster: TestCluster, key: string) {
  const master = await cluster.masterOf(key)
  const replica = await cluster.replicaOf(master)
  process.kill(replica.pid, 'SIGSTOP')
  // What was sent already is in the replica's socket; nothing is sent to one that is gone.
  await master.connect().call('CLIENT', 'KILL', 'TYPE', 'replica')
  await delay(LAG_MS)
  await master.stop()
  process.kill(replica.pid, 'SIGCONT')
  for (let now = master; now === master; now = await cluster.masterOf(key).catch(() => master))
    await delay(50)
  return master
}
