import type { Test } from 'tap'
import { v7 as uuidv7 } from 'uuid'
import type { NewJob } from '../../src/store/store.ts'
import { move, acceptMany, listed, idsOf, type OpenStore } from './jobs.ts'

export function listing(t: Test, openStore: OpenStore): void {
  t.test('a tenant’s jobs are listed newest first, in pages', async (t) => {
    const store = await openStore(t)
    const tenant = uuidv7()
    const jobs = await acceptMany(store, 7, { tenant })
    await acceptMany(store, 1)
    t.strictSame(await listed(store, tenant, {}, 3), idsOf(jobs).toReversed())
    t.strictSame(await listed(store, tenant, {}, 7), idsOf(jobs).toReversed())
    t.strictSame(await listed(store, tenant, {}, 100), idsOf(jobs).toReversed())
    const first = await store.list(tenant, {}, { limit: 3, after: null })
    t.equal(first.jobs.length, 3)
    await acceptMany(store, 1, { tenant })
    const second = await store.list(tenant, {}, { limit: 3, after: first.next })
    t.strictSame(
      second.jobs.map(({ record }) => record.id),
      idsOf(jobs).toReversed().slice(3, 6),
    )
    t.strictSame(await store.list(uuidv7(), {}, { limit: 3, after: null }), { jobs: [], next: null })
  })

  t.test('a list can be narrowed to a status and a type', async (t) => {
    const store = await openStore(t)
    const tenant = uuidv7()
    const [a, b, c, d] = [
      ...(await acceptMany(store, 2, { tenant, type: 'x' })),
      ...(await acceptMany(store, 2, { tenant, type: 'y' })),
    ] as [NewJob, NewJob, NewJob, NewJob]
    await move(store, b, { kind: 'started', queue: 'a' })
    await move(store, c, { kind: 'started', queue: 'a' })
    for (const limit of [1, 10]) {
      t.strictSame(await listed(store, tenant, { status: 'running' }, limit), idsOf([c, b]))
      t.strictSame(await listed(store, tenant, { type: 'x' }, limit), idsOf([b, a]))
      t.strictSame(await listed(store, tenant, { status: 'queued', type: 'y' }, limit), idsOf([d]))
      t.strictSame(await listed(store, tenant, { status: 'failed' }, limit), [])
    }
  })

  t.test('what a list is narrowed to may be far behind', async (t) => {
    const store = await openStore(t)
    const tenant = uuidv7()
    const wanted = await acceptMany(store, 2, { tenant, type: 'x' })
    await acceptMany(store, 2_500, { tenant, type: 'y' })
    t.strictSame(await listed(store, tenant, { type: 'x' }, 10), idsOf(wanted).toReversed())
  })
}
