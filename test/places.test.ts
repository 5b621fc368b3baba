import { once } from 'node:events'
import { setImmediate as turn, setTimeout as delay } from 'node:timers/promises'
import { pino } from 'pino'
import t, { type Test } from 'tap'
import { createPlaces } from '../src/access/places.ts'
import { createConnect } from '../src/store/redis/connect.ts'
import { createRedisStore } from '../src/store/redis/redis-store.ts'
import type { Store } from '../src/store/store.ts'
import { startGatewayProcess } from './e2e/processes.ts'
import { startGateway } from './gateway.ts'
import { startRedis, type TestRedis } from './helper.ts'

const redis = await startRedis(t)
const types = { idle: { steps: ['idle'] } }

/**
 * The places of a node that is here for an hour.
 *
 * @param before awaited before each word to the store
 */
async function openNode(
  t: Test,
  node: string,
  most: number,
  { url }: TestRedis = redis,
  before = async () => {},
) {
  const connect = createConnect(url, () => undefined)
  const client = connect('command')
  await once(client, 'ready')
  const store = createRedisStore(client, connect)
  const closing = new AbortController()
  t.teardown(async () => {
    closing.abort()
    await store.close()
    client.disconnect()
  })
  await store.announce(node, [], 3_600_000)
  const log = pino({ level: 'silent' })
  const limits: Store['limits'] = {
    ...store.limits,
    async hold(...args) {
      await before()
      return store.limits.hold(...args)
    },
  }
  return createPlaces({ store: { limits }, node, kind: 'streams', most, closing: closing.signal, log })
}

t.test('however many ask at once, on two nodes, as many get a place as there are', async (t) => {
  const [a, b] = [await openNode(t, 'a', 10), await openNode(t, 'b', 10)]
  const client = redis.connect()
  for (let round = 1; round <= 5; round++) {
    const asked = Array.from({ length: 40 }, (_, n) => (n % 2 === 0 ? a : b).take('crowd'))
    const given = (await Promise.all(asked)).filter((giveBack) => giveBack !== null)
    t.equal(given.length, 10)
    for (const giveBack of given) giveBack()
    const all = await allFree(a, 'crowd', 10)
    for (const giveBack of given) giveBack()
    t.equal(await b.take('crowd'), null, 'none is given back twice')
    for (const giveBack of all) giveBack()
    for (const giveBack of await allFree(b, 'crowd', 10)) giveBack()
    while ((await client.keys('*places*')).length > 0) await delay(1)
  }
})

t.test('places that are given back while the store is away are free when it is there again', async (t) => {
  const own = await startRedis(t, { args: ['--appendfsync', 'always'] })
  const [here, there] = [await openNode(t, 'a', 2, own), await openNode(t, 'b', 2, own)]
  const taken = [await here.take('key'), await here.take('key')]
  t.equal(await there.take('key'), null)
  await own.stop()
  await t.rejects(here.take('key'))
  for (const giveBack of taken) giveBack?.()
  await own.start()
  t.equal((await allFree(there, 'key', 2)).length, 2)
})

t.test(
  'a word that failed and came with a later one does not take away the places given since',
  async (t) => {
    let isAway = false
    const places = await openNode(t, 'lossy', 2, redis, async () => {
      if (isAway) throw new Error('The store is away')
    })
    const client = redis.connect()
    const first = await places.take('again')
    isAway = true
    first?.()
    await turn()
    isAway = false
    ;(await places.take('again'))?.()
    while ((await client.keys('*places*')).length > 0) await delay(1)
    await turn()
    const taken = [await places.take('again'), await places.take('again')]
    t.ok(taken.every((giveBack) => giveBack !== null))
    // Longer than until a word that failed is said again.
    await delay(1_100)
    t.equal(await places.take('again'), null)
    for (const giveBack of taken) giveBack?.()
    while ((await client.keys('*places*')).length > 0) await delay(1)
  },
)

t.test('the streams of a node that is killed are free within seconds', async (t) => {
  const env = { QUARTET_MAX_STREAMS_PER_KEY: '1' }
  const [doomed, other] = [
    await startGatewayProcess(t, { redis, types, roles: 'http', env }),
    await startGateway(t, types, { redis, env }),
  ]
  const { headers, body } = await other.post({ type: 'idle' })
  await body?.cancel()
  const path = `${headers.get('location')}/events`
  const stream = await fetch(doomed.url + path)
  t.equal((await fetch(other.url + path)).status, 429)
  const killed = t.rejects(stream.text())
  doomed.child.kill('SIGKILL')
  await Promise.all([doomed.exited, killed])
  let status = 429
  while (status === 429) {
    await delay(50)
    status = (await fetch(other.url + path)).status
  }
  t.equal(status, 200)
})

/** Asks until so many places are free at once. @returns gives each back */
async function allFree(
  places: Awaited<ReturnType<typeof openNode>>,
  name: string,
  count: number,
): Promise<(() => void)[]> {
  const taken: (() => void)[] = []
  while (taken.length < count) {
    const giveBack = await places.take(name).catch(() => null)
    if (giveBack) taken.push(giveBack)
    else await delay(5)
  }
  return taken
}
