import { once } from 'node:events'
import t, { type Test } from 'tap'
import { createConnect } from '../src/store/redis/connect.ts'
import { createRedisStore } from '../src/store/redis/redis-store.ts'
import type { Store } from '../src/store/store.ts'
import { startCluster } from './redis-cluster.ts'
import { storeContract } from './store-contract.ts'
import type { StoreOptions } from './store-contract/jobs.ts'

const cluster = await startCluster(t)

t.test('the store in a Redis Cluster keeps the contract', (t) => {
  storeContract(t, openStore)
  t.end()
})

async function openStore(t: Test, options?: StoreOptions): Promise<Store> {
  const connect = createConnect(cluster.url, () => undefined)
  const client = connect('command')
  await once(client, 'ready')
  const store = createRedisStore(client, connect, options)
  t.teardown(async () => {
    await store.close()
    client.disconnect()
  })
  return store
}
