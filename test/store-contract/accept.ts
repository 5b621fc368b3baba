import type { Test } from 'tap'
import { v7 as uuidv7 } from 'uuid'
import { newJob, move, toTheEnd, keyed, texts, listed, own, type OpenStore } from './jobs.ts'

export function accepting(t: Test, openStore: OpenStore): void {
  t.test('a job that was accepted is there, with its first event and its input', async (t) => {
    const store = await openStore(t)
    const job = newJob({}, { input: '{"n":12345678901234567890}' })
    t.strictSame(await store.accept(job), { status: 'accepted' })
    t.strictSame(await store.load([job.record.id]), [{ record: job.record, version: 1, input: job.input }])
    t.strictSame(await texts(store, job), [job.event])
    t.equal(await store.deliveries.callback(job.record.id), null)
  })

  t.test('accepting a job again changes nothing, however far it has come', async (t) => {
    const store = await openStore(t)
    const job = newJob({}, { idempotency: keyed('again'), callback: { url: 'http://a', events: null } })
    await store.accept(job)
    t.strictSame(await store.accept(job), { status: 'accepted' })
    t.strictSame(await texts(store, job), [job.event])
    await move(store, job, { kind: 'started', queue: 'a' })
    const before = await store.load([job.record.id])
    t.strictSame(await store.accept(job), { status: 'accepted' })
    t.strictSame(await store.load([job.record.id]), before)
    t.equal((await texts(store, job)).length, 2)
  })

  t.test('an idempotency key that is taken stores nothing and names the first job', async (t) => {
    const store = await openStore(t)
    const first = newJob({}, { idempotency: keyed('order 42') })
    const same = newJob({}, { idempotency: keyed('order 42') })
    const other = newJob({}, { idempotency: keyed('order 42', 'another body') })
    t.strictSame(await store.accept(first), { status: 'accepted' })
    t.strictSame(await store.accept(same), { status: 'duplicate', id: first.record.id })
    t.strictSame(await store.accept(other), { status: 'mismatch', id: first.record.id })
    t.strictSame(await store.load([same.record.id, other.record.id]), [null, null])
    t.equal(await store.read(same.record.id, 0, 10), null)
  })

  t.test('an idempotency key belongs to one tenant', async (t) => {
    const store = await openStore(t)
    await store.accept(newJob({ tenant: 'one' }, { idempotency: keyed('shared') }))
    const job = newJob({ tenant: 'two' }, { idempotency: keyed('shared', 'another body') })
    t.strictSame(await store.accept(job), { status: 'accepted' })
  })

  t.test('of twenty that come at once with one key, on two nodes, one is accepted', async (t) => {
    const stores = [await openStore(t), await openStore(t)] as const
    const jobs = Array.from({ length: 20 }, () => newJob({}, { idempotency: keyed('at once') }))
    const answers = await Promise.all(jobs.map((job, index) => stores[index % 2 === 0 ? 0 : 1].accept(job)))
    const winners = jobs.filter((_, index) => answers[index]?.status === 'accepted')
    t.equal(winners.length, 1)
    const { id } = winners[0]?.record ?? { id: '' }
    t.equal(answers.filter((answer) => answer.status === 'duplicate' && answer.id === id).length, 19)
    const stored = await stores[0].load(jobs.map(({ record }) => record.id))
    t.strictSame(
      stored.flatMap((job) => (job ? [job.record.id] : [])),
      [id],
    )
  })

  t.test('the key of a job that is no longer there is free again', async (t) => {
    const store = await openStore(t)
    const first = newJob({}, { idempotency: keyed('freed') })
    await store.accept(first)
    await move(store, first, ...toTheEnd)
    await store.forget(first.record.tenant, first.record.id)
    const second = newJob({}, { idempotency: keyed('freed', 'another body') })
    t.strictSame(await store.accept(second), { status: 'accepted' })
    const third = newJob({}, { idempotency: keyed('freed') })
    t.strictSame(await store.accept(third), { status: 'mismatch', id: second.record.id })
  })

  t.test('a job that nothing has happened to can be withdrawn', async (t) => {
    const store = await openStore(t)
    const job = newJob({ tenant: uuidv7() }, { idempotency: keyed('withdrawn') })
    const { id, tenant } = job.record
    await store.accept(job)
    await store.withdraw(job.record)
    t.strictSame(await store.load([id]), [null])
    t.equal(await store.read(id, 0, 10), null)
    t.strictSame(await listed(store, tenant, {}, 10), [])
    await store.postpone(id, 1)
    t.strictSame(own(await store.overdue(1, 1_000, 1), [id]), [])
    const next = newJob({ tenant }, { idempotency: keyed('withdrawn', 'another body') })
    t.strictSame(await store.accept(next), { status: 'accepted' }, 'its key is free again')
    await store.withdraw(job.record)
    const last = newJob({ tenant }, { idempotency: keyed('withdrawn') })
    t.strictSame(await store.accept(last), { status: 'mismatch', id: next.record.id })
  })

  t.test('a job that has moved on stays when it is withdrawn, and so does its key', async (t) => {
    const store = await openStore(t)
    const job = newJob({}, { idempotency: keyed('moved on') })
    await store.accept(job)
    await move(store, job, { kind: 'end_requested', ending: 'canceled' })
    await store.withdraw(job.record)
    t.match(await store.load([job.record.id]), [{ record: { ending: 'canceled' } }])
    const again = newJob({}, { idempotency: keyed('moved on') })
    t.strictSame(await store.accept(again), { status: 'duplicate', id: job.record.id })
  })

  t.test('records come in the order asked for, null for those not here', async (t) => {
    const store = await openStore(t)
    const [a, b] = [newJob(), newJob()]
    await store.accept(a)
    await store.accept(b)
    const ids = [b.record.id, uuidv7(), a.record.id, b.record.id]
    const loaded = await store.load(ids)
    t.strictSame(
      loaded.map((job) => job?.record.id ?? null),
      [ids[0], null, ids[2], ids[3]],
    )
    t.strictSame(await store.load([]), [])
  })
}
