import { setImmediate as turn } from 'node:timers/promises'
import type { Test } from 'tap'
import { v7 as uuidv7 } from 'uuid'
import type { NewJob } from '../../src/store/store.ts'
import { newJob, move, toTheEnd, acceptMany, listed, idsOf, own, type OpenStore } from './jobs.ts'
import { claimOne, delivered, handedOver, newUrl } from './deliver.ts'

export function watching(t: Test, openStore: OpenStore): void {
  t.test('jobs whose time has passed are named, and not again within the claim', async (t) => {
    const store = await openStore(t)
    const [a, b, c] = idsOf(await acceptMany(store, 3)) as [string, string, string]
    t.strictSame(own(await store.overdue(Date.now(), 1_000, 1_000), [a, b, c]), [], 'a new job is not due')
    for (const [due, id] of [a, b, c].entries()) await store.postpone(id, due + 1)
    t.strictSame(await store.overdue(2, 1, 10), [a])
    t.strictSame(await store.overdue(2, 10, 10), [b])
    t.strictSame(await store.overdue(2, 10, 10), [])
    t.strictSame(await store.overdue(3, 10, 10), [c])
    t.strictSame((await store.overdue(12, 10, 1_000)).toSorted(), [a, b])
    await store.postpone(a, 5)
    t.strictSame(await store.overdue(5, 10, 1_000), [a])
    const gone = uuidv7()
    await store.postpone(gone, 1)
    t.strictSame(own(await store.overdue(1, 10, 1), [gone]), [], 'a job that is not here does not become due')
  })

  t.test('two that ask at once share what is due', async (t) => {
    const stores = [await openStore(t), await openStore(t)] as const
    const ids = idsOf(await acceptMany(stores[0], 20))
    for (const id of ids) await stores[0].postpone(id, 1)
    const named = await Promise.all(
      Array.from({ length: 10 }, (_, n) => stores[n % 2 === 0 ? 0 : 1].overdue(1, 3, 99)),
    )
    t.strictSame(named.flat().toSorted(), ids)
  })

  t.test('each change puts an unfinished job off; its deadline never is', async (t) => {
    const store = await openStore(t)
    const now = Date.now()
    const [job] = (await acceptMany(store, 1)) as [NewJob]
    const { id } = job.record
    await store.postpone(id, 1)
    await move(store, job, { kind: 'started', queue: 'a' })
    t.strictSame(own(await store.overdue(now, 10_000, 1), [id]), [])

    const [urgent] = (await acceptMany(store, 1, { deadlineAt: now + 10 })) as [NewJob]
    t.strictSame(own(await store.overdue(now + 9, 10_000, 1), [urgent.record.id]), [])
    t.strictSame(own(await store.overdue(now + 10, 10_000, 1), [urgent.record.id]), [urgent.record.id])
    await move(store, urgent, { kind: 'started', queue: 'a' })
    t.strictSame(own(await store.overdue(now + 10, 10_000, 1), [urgent.record.id]), [urgent.record.id])
  })

  t.test('an ended job is due when its retention is over', async (t) => {
    const store = await openStore(t)
    const [job] = (await acceptMany(store, 1, { retentionMs: 5_000_000 })) as [NewJob]
    const { id } = job.record
    await move(store, job, ...toTheEnd)
    const expiresAt = (await store.load([id]))[0]?.record.expiresAt ?? 0
    t.strictSame(own(await store.overdue(expiresAt - 1, 10_000, 1), [id]), [])
    t.strictSame(own(await store.overdue(expiresAt, 10_000, 1), [id]), [id])
  })

  t.test('an ended job with a return address is due long before that', async (t) => {
    const store = await openStore(t)
    const job = newJob({ retentionMs: 5_000_000 }, { callback: { url: 'http://a', events: null } })
    const late = newJob({ retentionMs: 5_000_000 })
    const ids = idsOf([job, late])
    for (const each of [job, late]) {
      await store.accept(each)
      await move(store, each, ...toTheEnd)
    }
    await store.deliveries.setCallback(late.record.id, { url: 'http://a', events: null }, 0)
    t.strictSame(own(await store.overdue(Date.now() + 60_000, 10_000, 1), ids).toSorted(), ids)
  })

  t.test('after a loss every unfinished job is due', async (t) => {
    const store = await openStore(t)
    const ids = idsOf(await acceptMany(store, 2_500))
    await store.postpone(ids[0] ?? '', 400)
    await store.suspectAll(500)
    t.strictSame(
      own(await store.overdue(400, 10_000, 1_000_000), ids),
      ids.slice(0, 1),
      'none is put off by it',
    )
    t.strictSame(own(await store.overdue(500, 10_000, 1_000_000), ids).toSorted(), ids.slice(1))
  })

  t.test('a job that is forgotten is gone', async (t) => {
    const store = await openStore(t)
    const tenant = uuidv7()
    const [job, other] = (await acceptMany(store, 2, { tenant })) as [NewJob, NewJob]
    const { id } = job.record
    await store.deliveries.setCallback(id, { url: 'http://a', events: ['*'] }, 0)
    await move(store, job, ...toTheEnd)
    await store.forget(tenant, id)
    t.strictSame(await store.load([id]), [null])
    t.equal(await store.get(tenant, id), null)
    t.equal(await store.read(id, 0, 10), null)
    t.equal(await store.deliveries.callback(id), null)
    t.equal(await store.deliveries.setCallback(id, { url: 'http://a', events: null }, 0), false)
    t.strictSame(await listed(store, tenant, {}, 10), [other.record.id])
    t.strictSame(own(await store.overdue(Date.now() + 1e9, 10_000, 1), [id]), [])
    await store.forget(tenant, id)
  })

  t.test('a job is not forgotten as delivered while something of it is to be delivered', async (t) => {
    const store = await openStore(t)
    const { tenant, id } = await handedOver(store)
    const forgotten = () => store.forget(tenant, id, 'delivered')
    t.equal(await forgotten(), false)
    await store.deliveries.settle(await claimOne(store, id), delivered)
    t.equal(await store.deliveries.redeliver(tenant, id, 2), 'scheduled')
    t.equal(await forgotten(), false)
    await store.deliveries.settle(await claimOne(store, id), delivered)
    await store.deliveries.setCallback(id, { url: newUrl(), events: null }, 0)
    t.equal(await forgotten(), false)
    t.match(await store.deliveries.callback(id), { pending: { seq: 2 } }, 'nothing of it is gone')
    await store.deliveries.settle(await claimOne(store, id), delivered)
    t.equal(await forgotten(), true)
    t.strictSame(await store.load([id]), [null])
  })

  t.test('one at a time has the duty for a source', async (t) => {
    const [store, other] = [await openStore(t), await openStore(t)] as const
    const source = uuidv7()
    t.equal(await store.lease(source, 'a', 60_000), true)
    t.equal(await other.lease(source, 'b', 60_000), false)
    t.equal(await store.lease(source, 'a', 60_000), true, 'who has it keeps it')
    t.equal(await other.lease(uuidv7(), 'b', 60_000), true, 'another source is free')
    await other.release(source, 'b')
    t.equal(await other.lease(source, 'b', 60_000), false, 'only its owner can release it')
    await store.release(source, 'a')
    t.equal(await other.lease(source, 'b', 1), true)
    while (!(await store.lease(source, 'a', 60_000))) await turn()
    t.pass('a lease runs out')
  })
}
