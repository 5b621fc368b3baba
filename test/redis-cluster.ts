import { setTimeout as delay } from 'node:timers/promises'
import { Cluster } from 'ioredis'
import type { Test } from 'tap'
import { startRedis, type TestRedis } from './helper.ts'

const SLOTS = 16_384

/** A Redis Cluster that belongs to one test: three masters, each with a replica, on loopback. */
export interface TestCluster {
  /** `redis+cluster://127.0.0.1:<port>,…` */
  readonly url: string
  readonly nodes: readonly TestRedis[]
  /** A client that is closed at teardown. */
  connect(): Cluster
  /** The node that is the master of a key's slot now. */
  masterOf(key: string): Promise<TestRedis>
  /** The node that follows a master now. */
  replicaOf(master: TestRedis): Promise<TestRedis>
  /** Resolves when every node says that all slots are served. */
  whenOk(): Promise<void>
}

/**
 * Runs six redis-servers and makes them a cluster.
 *
 * @param options.nodeTimeoutMs how long a master may be silent before its replica takes over
 */
export async function startCluster(
  t: Pick<Test, 'teardown'>,
  { nodeTimeoutMs = 2_000, args = [] }: { nodeTimeoutMs?: number; args?: string[] } = {},
): Promise<TestCluster> {
  const clustered = ['--cluster-enabled', 'yes', '--cluster-node-timeout', String(nodeTimeoutMs), ...args]
  const nodes = await Promise.all(Array.from({ length: 6 }, () => startRedis(t, { args: clustered })))
  const clients = nodes.map((node) => node.connect())
  const [first] = nodes as [TestRedis]
  const [masters, replicas] = [clients.slice(0, 3), clients.slice(3)]

  await Promise.all(
    masters.map((client, index) => {
      const [from, to] = [index, index + 1].map((part) => Math.floor((part * SLOTS) / masters.length))
      return client.call('CLUSTER', 'ADDSLOTSRANGE', from ?? 0, (to ?? 0) - 1)
    }),
  )
  for (const client of clients.slice(1)) await client.cluster('MEET', '127.0.0.1', first.port)
  await until(async () => {
    const known = await Promise.all(clients.map((client) => client.cluster('NODES')))
    return known.every(
      (each) => String(each).trim().split('\n').length === 6 && !String(each).includes('handshake'),
    )
  })
  await Promise.all(
    replicas.map(async (client, index) =>
      client.cluster('REPLICATE', String(await masters[index]?.cluster('MYID'))),
    ),
  )
  await until(async () => {
    const states = await Promise.all(replicas.map((client) => client.info('replication')))
    return states.every((state) => state.includes('master_link_status:up'))
  })
  await whenOk()

  return {
    url: `redis+cluster://${nodes.map(({ port }) => `127.0.0.1:${port}`).join(',')}`,
    nodes,
    connect() {
      const cluster = new Cluster(nodes.map(({ port }) => ({ host: '127.0.0.1', port })))
      cluster.on('error', () => undefined)
      t.teardown(() => cluster.disconnect())
      return cluster
    },
    masterOf,
    replicaOf,
    whenOk,
  }

  async function masterOf(key: string): Promise<TestRedis> {
    for (const client of clients) {
      if (client.status !== 'ready') continue
      const slot = await client.cluster('KEYSLOT', key)
      const ranges = (await client.call('CLUSTER', 'SLOTS')) as [number, number, [string, number]][]
      const port = ranges.find(([from, to]) => from <= slot && slot <= to)?.[2][1]
      const node = nodes.find((each) => each.port === port)
      if (node) return node
    }
    throw new Error(`Expected a master for ${key}, got none`)
  }

  async function replicaOf(master: TestRedis): Promise<TestRedis> {
    const states = await Promise.all(clients.map((client) => client.info('replication')))
    const at = states.findIndex((state) => state.includes(`master_port:${master.port}\r\n`))
    const replica = nodes[at]
    if (!replica) throw new Error(`Expected a replica of ${master.port}, got none`)
    return replica
  }

  async function whenOk(): Promise<void> {
    await until(async () => {
      const states = await Promise.all(
        clients.filter(({ status }) => status === 'ready').map((client) => client.cluster('INFO')),
      )
      return states.length > 0 && states.every((state) => state.includes('cluster_state:ok'))
    })
  }
}

/** A cluster tells nobody when it is done. */
async function until(holds: () => Promise<boolean>): Promise<void> {
  while (!(await holds())) await delay(50)
}
