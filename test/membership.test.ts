import { once } from 'node:events'
import { pino } from 'pino'
import t from 'tap'
import { createMembership, nameNode, share } from '../src/membership.ts'
import { createConnect } from '../src/store/redis/connect.ts'
import { createRedisStore } from '../src/store/redis/redis-store.ts'
import { startRedis } from './helper.ts'

const queues = (count: number) => Array.from({ length: count }, (_, index) => `queue-${index}`)
const nodes = (names: readonly string[], known: readonly string[]) =>
  new Map(names.map((name) => [name, known] as const))

/** How many queues each node has. */
function loads(owners: ReadonlyMap<string, string>): Record<string, number> {
  const counts: Record<string, number> = {}
  for (const owner of owners.values()) counts[owner] = (counts[owner] ?? 0) + 1
  return counts
}

t.test('every queue has one node, and no node more than its share', async (t) => {
  for (const [many, of] of [
    [1, 1],
    [4, 4],
    [8, 4],
    [7, 3],
    [50, 7],
    [2, 5],
  ] as const) {
    const names = Array.from({ length: of }, (_, index) => `node-${index}`)
    const owners = share(nodes(names, queues(many)))
    t.strictSame([...owners.keys()].toSorted(), queues(many).toSorted())
    t.ok(Math.max(...Object.values(loads(owners))) <= Math.ceil(many / of), `${many} queues, ${of} nodes`)
  }
})

t.test('all who see the same nodes share alike, in whatever order they see them', async (t) => {
  const names = ['a', 'b', 'c', 'd']
  t.strictSame(share(nodes(names.toReversed(), queues(20).toReversed())), share(nodes(names, queues(20))))
})

t.test('when a node goes, most queues stay where they are', async (t) => {
  const before = share(nodes(['a', 'b', 'c', 'd'], queues(40)))
  const after = share(nodes(['a', 'b', 'c'], queues(40)))
  const kept = queues(40).filter(
    (queue) => before.get(queue) !== 'd' && before.get(queue) === after.get(queue),
  )
  t.ok(kept.length >= 20, `${kept.length} of 30 stay`)
})

t.test('a node gets only queues that it knows, and one that only it knows', async (t) => {
  const owners = share(
    new Map([
      ['http', []],
      ['old', ['x', 'y']],
      ['new', ['x', 'y', 'z', 'w']],
    ]),
  )
  t.strictSame([...owners.keys()].toSorted(), ['w', 'x', 'y', 'z'])
  t.equal(owners.get('z'), 'new')
  t.equal(owners.get('w'), 'new')
  t.strictSame(loads(owners), { old: 2, new: 2 })
})

t.test('with nobody to collect nothing is shared', async (t) => {
  t.equal(share(new Map()).size, 0)
  t.equal(share(nodes(['http'], [])).size, 0)
})

t.test('of all nodes those are counted apart that take jobs in: they share the room there is', async (t) => {
  const redis = await startRedis(t)
  const connect = createConnect(redis.url, () => undefined)
  const client = connect('command')
  await once(client, 'ready')
  const store = createRedisStore(client, connect)
  t.teardown(() => client.disconnect())
  const leaving = new AbortController()
  const join = async (isFront: boolean) => {
    const parts = { node: nameNode(isFront), queues: ['x'], log: pino({ level: 'silent' }) }
    const membership = createMembership({ store, ...parts })
    const { left } = await membership.join(leaving.signal)
    return { membership, left }
  }
  const nodes = [await join(false), await join(true), await join(false), await join(true)]
  t.match(nodes.at(-1)?.membership, { size: 4, fronts: 2 })
  leaving.abort()
  await Promise.all(nodes.map(({ left }) => left))
})
