import { setImmediate as turn } from 'node:timers/promises'
import type { Test } from 'tap'
import { v7 as uuidv7 } from 'uuid'
import type { OpenStore } from './jobs.ts'

/** What is counted for all nodes together. */
export function limiting(t: Test, openStore: OpenStore): void {
  t.test('a count is of all nodes, and begins anew when its window is over', async (t) => {
    const [store, other] = [await openStore(t), await openStore(t)] as const
    const [name, brief] = [`requests ${uuidv7()}`, uuidv7()]
    const first = await store.limits.count(name, 1, 60_000)
    t.equal(first.count, 1)
    t.ok(first.leftMs > 50_000 && first.leftMs <= 60_000)
    const second = await other.limits.count(name, 40, 90_000)
    t.equal(second.count, 41)
    t.ok(second.leftMs <= first.leftMs, 'what comes later makes it no longer')
    t.equal((await store.limits.count(uuidv7(), 1, 60_000)).count, 1, 'another name is another count')

    t.match(await store.limits.count(brief, 5, 1), { count: 5, leftMs: 1 })
    while ((await store.limits.count(brief, 5, 1)).count !== 5) await turn()
    t.pass('anew')
  })

  t.test('places are shared by all nodes that are here', async (t) => {
    const store = await openStore(t)
    const [a, b, name] = [uuidv7(), uuidv7(), uuidv7()]
    for (const node of [a, b]) await store.announce(node, [], 60_000)
    const hold = (node: string, held: number, more: number) =>
      store.limits.hold(name, node, { held, more, most: 3, ttlMs: 60_000 })
    t.equal(await hold(a, 0, 2), 2)
    t.equal(await hold(b, 0, 2), 1, 'as many as there are')
    t.equal(await hold(a, 2, 1), 0)
    t.equal(await store.limits.hold(uuidv7(), b, { held: 0, more: 3, most: 3, ttlMs: 60_000 }), 3)

    t.equal(await hold(a, 0, 0), 0)
    t.equal(await hold(b, 1, 5), 2, 'what was given back is free')
    t.equal(await hold(a, 2, 0), 0, 'a node has what it says, whatever the others have')
    t.equal(await hold(b, 3, 1), 0)
    await store.announce(b, [], 0)
    t.equal(await hold(a, 2, 5), 1, 'those of a node that left are free')
    await store.announce(b, [], 60_000)
    t.equal(await hold(a, 0, 1), 0, 'one that was only silent has its own again')
    await Promise.all([a, b].map((node) => store.announce(node, [], 0)))
  })

  t.test(
    'places of a node that died are free once it is gone, and all when their time is over',
    async (t) => {
      const store = await openStore(t)
      const [here, dead, name] = [uuidv7(), uuidv7(), uuidv7()]
      await store.announce(dead, [], 60_000)
      const take = (node: string, ttlMs: number) =>
        store.limits.hold(name, node, { held: 0, more: 1, most: 1, ttlMs })
      t.equal(await take(dead, 60_000), 1)
      t.equal(await take(here, 60_000), 0)
      await store.announce(dead, [], 1)
      while ((await take(here, 60_000)) === 0) await turn()

      await store.announce(here, [], 60_000)
      t.equal(await take(dead, 60_000), 0)
      while ((await take(dead, 1)) === 0) await turn()
      t.pass('nothing is held for longer than it is said to be')
      await store.announce(here, [], 0)
    },
  )
}
