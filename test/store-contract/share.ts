import { setImmediate as turn } from 'node:timers/promises'
import type { Test } from 'tap'
import { v7 as uuidv7 } from 'uuid'
import type { NewJob, Store } from '../../src/store/store.ts'
import { keyed, move, newJob, type OpenStore } from './jobs.ts'

/** What the nodes of a gateway know of each other, and the bound on what waits. */
export function sharing(t: Test, openStore: OpenStore): void {
  t.test('nodes that announce themselves see each other, with what they would take on', async (t) => {
    const [store, other] = [await openStore(t), await openStore(t)] as const
    const [a, b] = [uuidv7(), uuidv7()]
    t.match(await store.announce(a, ['x', 'y "z"'], 60_000), new Map([[a, ['x', 'y "z"']]]))
    const both = await other.announce(b, [], 60_000)
    t.strictSame([both.get(a), both.get(b)], [['x', 'y "z"'], []])
    const changed = await store.announce(a, ['x'], 60_000)
    t.strictSame([changed.get(a), changed.get(b)], [['x'], []])
    t.equal((await other.announce(b, [], 0)).has(b), false, 'a node can leave')
    t.equal((await store.announce(a, [], 0)).has(b), false)
  })

  t.test('a node that is silent for too long is gone', async (t) => {
    const store = await openStore(t)
    const [silent, other] = [uuidv7(), uuidv7()]
    t.equal((await store.announce(silent, ['x'], 1)).has(silent), true)
    while ((await store.announce(other, [], 60_000)).has(silent)) await turn()
    await store.announce(other, [], 0)
  })

  t.test('the store’s clock is the same for all', async (t) => {
    const [store, other] = [await openStore(t), await openStore(t)] as const
    const before = Date.now()
    for (const each of [store, other]) await each.announce(uuidv7(), [], 1)
    // Both asked the same clock in between, each within the time that its answer took.
    const doubt = Date.now() - before
    t.ok(Math.abs(store.now() - other.now()) <= doubt + 1)
  })

  t.test('jobs wait until their first attempt, or their end', async (t) => {
    const store = await openStore(t)
    const type = uuidv7()
    t.strictSame(await store.backlog([type, 'none']), [
      { waiting: 0, started: 0 },
      { waiting: 0, started: 0 },
    ])
    const jobs = Array.from({ length: 5 }, () => newJob({ type })) as [NewJob, NewJob, NewJob, NewJob, NewJob]
    for (const job of jobs) await store.accept(job)
    await store.accept(jobs[0])
    t.strictSame(await store.backlog([type]), [{ waiting: 5, started: 0 }])
    await move(store, jobs[0], { kind: 'started', queue: 'a' }, { kind: 'progress', queue: 'a', data: '1' })
    await move(store, jobs[0], { kind: 'completed', queue: 'a', result: '1' })
    await move(store, jobs[1], { kind: 'end_requested', ending: 'canceled' })
    t.strictSame(await store.backlog([type]), [{ waiting: 4, started: 1 }])
    await move(store, jobs[1], { kind: 'ended', ending: 'canceled' })
    await store.withdraw(jobs[2].record)
    t.strictSame(await store.backlog(['none', type]), [
      { waiting: 0, started: 0 },
      { waiting: 2, started: 2 },
    ])
    t.strictSame(await store.backlog([]), [])
  })

  t.test('beyond the bound on waiting jobs nothing is stored until there is room', async (t) => {
    const store = await openStore(t)
    const type = uuidv7()
    const make = (more: Partial<NewJob> = {}) => newJob({ type }, { maxWaiting: 2, ...more })
    const first = make({ idempotency: keyed('first of two') })
    t.strictSame(await store.accept(first), { status: 'accepted' })
    t.strictSame(await store.accept(make()), { status: 'accepted' })
    const refused = make({ idempotency: keyed('refused') })
    t.strictSame(await store.accept(refused), { status: 'full' })
    t.strictSame(await store.load([refused.record.id]), [null])
    t.equal(await store.read(refused.record.id, 0, 10), null)

    const repeated = make({ idempotency: keyed('first of two') })
    t.strictSame(
      await store.accept(repeated),
      { status: 'duplicate', id: first.record.id },
      'but a repetition is answered',
    )
    t.strictSame(await store.accept(first), { status: 'accepted' })
    t.strictSame(
      await store.accept(newJob({ type: uuidv7() }, { maxWaiting: 2 })),
      { status: 'accepted' },
      'and another type has room',
    )

    await move(store, first, { kind: 'started', queue: 'a' })
    const next = make({ idempotency: keyed('refused') })
    t.strictSame(await store.accept(next), { status: 'accepted' }, 'the key of what was refused is free')
    t.strictSame(await store.accept(make()), { status: 'full' })
  })

  t.test('beyond the bound of a tenant nothing of it is stored, and others have room', async (t) => {
    const store = await openStore(t)
    const type = uuidv7()
    const make = (tenant: string, more: Partial<NewJob> = {}) =>
      newJob({ type, tenant }, { maxWaiting: 5, maxWaitingPerTenant: 2, ...more })
    const jobs = [make('one', { idempotency: keyed('one of one') }), make('one'), make('two')]
    for (const job of jobs) t.strictSame(await store.accept(job), { status: 'accepted' })
    const refused = make('one', { idempotency: keyed('too many') })
    t.strictSame(await store.accept(refused), { status: 'tenant_full' })
    t.strictSame(await store.load([refused.record.id]), [null])
    const repeated = make('one', { idempotency: keyed('one of one') })
    t.match(await store.accept(repeated), { status: 'duplicate' }, 'but a repetition is answered')
    t.strictSame(await store.accept(make('two')), { status: 'accepted' })
    t.strictSame(await store.accept(make('two')), { status: 'tenant_full' })
    t.strictSame(await store.accept(make('three')), { status: 'accepted' })
    t.strictSame(await store.accept(make('three')), { status: 'full' }, 'the bound of all holds as well')
  })

  const leaving = {
    started: (store: Store, job: NewJob) => move(store, job, { kind: 'started', queue: 'a' }),
    canceled: (store: Store, job: NewJob) => move(store, job, { kind: 'ended', ending: 'canceled' }),
    expired: (store: Store, job: NewJob) => move(store, job, { kind: 'ended', ending: 'expired' }),
    removed: (store: Store, job: NewJob) => move(store, job, { kind: 'removed', queue: 'a' }),
    'failed without an attempt': (store: Store, job: NewJob) =>
      move(store, job, { kind: 'failed', queue: 'a', reason: 'doomed' }),
    withdrawn: (store: Store, job: NewJob) => store.withdraw(job.record),
  }
  for (const [name, leave] of Object.entries(leaving)) {
    t.test(`a job that is ${name} makes room for one of its tenant, and for no more`, async (t) => {
      const stores = [await openStore(t), await openStore(t)] as const
      const type = uuidv7()
      const make = () => newJob({ type }, { maxWaitingPerTenant: 2 })
      const jobs = [make(), make()]
      for (const job of jobs) await stores[0].accept(job)
      t.strictSame(await stores[1].accept(make()), { status: 'tenant_full' })
      await leave(stores[1], jobs[0]!)
      // Heard of again, as after a crash, it makes no room a second time.
      if (name === 'withdrawn') await leave(stores[0], jobs[0]!)
      else await move(stores[0], jobs[0]!, { kind: 'progress', queue: 'a', data: '1' })
      t.strictSame(await stores[0].accept(make()), { status: 'accepted' })
      t.strictSame(await stores[0].accept(make()), { status: 'tenant_full' })
    })
  }

  t.test('many of a tenant that are submitted at once stay within its bound', async (t) => {
    const stores = [await openStore(t), await openStore(t)] as const
    const type = uuidv7()
    const answers = await Promise.all(
      Array.from({ length: 60 }, (_, n) =>
        stores[n % 2 === 0 ? 0 : 1].accept(
          newJob({ type, tenant: `tenant${n % 3}` }, { maxWaitingPerTenant: 7 }),
        ),
      ),
    )
    t.equal(answers.filter(({ status }) => status === 'accepted').length, 21)
  })

  t.test('many who submit at once stay within the bound', async (t) => {
    const stores = [await openStore(t), await openStore(t)] as const
    const type = uuidv7()
    const answers = await Promise.all(
      Array.from({ length: 50 }, (_, n) =>
        stores[n % 2 === 0 ? 0 : 1].accept(newJob({ type }, { maxWaiting: 20 })),
      ),
    )
    t.equal(answers.filter(({ status }) => status === 'accepted').length, 20)
    t.strictSame(await stores[0].backlog([type]), [{ waiting: 20, started: 0 }])
  })
}
