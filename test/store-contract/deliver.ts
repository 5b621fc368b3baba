import type { Test } from 'tap'
import { v7 as uuidv7 } from 'uuid'
import type { Delivery } from '../../src/store/store.ts'
import { newJob, move, toTheEnd, withEvents, due, type OpenStore } from './jobs.ts'

export function delivering(t: Test, openStore: OpenStore): void {
  t.test('events are delivered one at a time, in order', async (t) => {
    const store = await openStore(t)
    const job = newJob({}, { callback: { url: 'http://a', events: ['*'] } })
    const { id } = job.record
    await store.accept(job)
    t.strictSame(await store.callback(id), { callback: { url: 'http://a', events: ['*'] }, pending: null })
    const first = await due(store, id)
    t.equal(first.seq, 1)
    t.strictSame((await store.callback(id))?.pending, first)
    await move(store, job, { kind: 'started', queue: 'a' }, ...toTheEnd)
    const asked = await Promise.all(Array.from({ length: 10 }, () => store.nextDelivery(id, null)))
    t.strictSame(
      asked,
      asked.map(() => first),
      'the first is still under way',
    )
    const second = await due(store, id, first)
    t.equal(second.seq, 2)
    t.strictSame(await due(store, id, first), second, 'settling it twice is harmless')
    const third = await due(store, id, second)
    t.equal(third.seq, 3)
    t.equal(await store.nextDelivery(id, third), null)
    t.equal(await store.nextDelivery(id, third), null)
    t.equal(await store.nextDelivery(id, null), null)
    t.equal((await store.callback(id))?.pending, null)
  })

  t.test('what is delivered next waits until there is something', async (t) => {
    const store = await openStore(t)
    const job = newJob({}, { callback: { url: 'http://a', events: ['job.progress'] } })
    const { id } = job.record
    await store.accept(job)
    t.equal(await store.nextDelivery(id, null), null)
    await move(store, job, { kind: 'started', queue: 'a' }, { kind: 'progress', queue: 'a', data: '1' })
    const first = await due(store, id)
    t.equal(first.seq, 3)
    t.equal(await store.nextDelivery(id, first), null)
    await move(store, job, { kind: 'progress', queue: 'a', data: '2' })
    t.equal((await due(store, id)).seq, 4)
  })

  t.test('only the events asked for are delivered, the terminal one by default', async (t) => {
    const store = await openStore(t)
    const job = await withEvents(store, 150)
    const { id } = job.record
    await move(store, job, { kind: 'started', queue: 'a' }, { kind: 'progress', queue: 'a', data: '1' })
    await move(store, job, { kind: 'failed', queue: 'a', reason: 'no' })
    const delivered = async (events: readonly string[] | null, after: number) => {
      t.equal(await store.setCallback(id, { url: 'http://b', events }, after), true)
      t.strictSame((await store.callback(id))?.callback, { url: 'http://b', events })
      const seqs: number[] = []
      for (let last: Delivery | null = null; (last = await store.nextDelivery(id, last));) seqs.push(last.seq)
      return seqs
    }
    t.strictSame(await delivered(null, 0), [153])
    t.strictSame(await delivered(['step.started'], 0), [151])
    t.strictSame(await delivered(['step.started', 'job.failed'], 0), [151, 153])
    t.strictSame(await delivered(['job.completed'], 0), [])
    t.strictSame(
      await delivered(['*'], 0),
      Array.from({ length: 153 }, (_, index) => index + 1),
    )
    t.strictSame(await delivered(['job.queued', '*'], 150), [151, 152, 153])
    t.strictSame(await delivered(null, 153), [])
  })

  t.test('what the journal no longer has is not delivered', async (t) => {
    const store = await openStore(t)
    const job = await withEvents(store, 30, { journalLimit: 10 })
    await store.setCallback(job.record.id, { url: 'http://a', events: ['*'] }, 0)
    t.equal((await due(store, job.record.id)).seq, 21)
  })

  t.test('a change of the return address makes what is under way void', async (t) => {
    const store = await openStore(t)
    const job = newJob({}, { callback: { url: 'http://old', events: ['*'] } })
    const { id } = job.record
    await store.accept(job)
    await move(store, job, { kind: 'started', queue: 'a' })
    const old = await due(store, id)
    await store.setCallback(id, { url: 'http://new', events: ['*'] }, 0)
    t.strictSame(await store.callback(id), {
      callback: { url: 'http://new', events: ['*'] },
      pending: null,
    })
    const fresh = await due(store, id)
    t.equal(fresh.seq, 1, 'the new address gets it from where it asked for')
    t.not(fresh.generation, old.generation)
    t.strictSame(await due(store, id, old), fresh, 'the old delivery settles nothing')
    t.equal((await due(store, id, fresh)).seq, 2)
  })

  t.test('a job without a return address has nothing to deliver', async (t) => {
    const store = await openStore(t)
    const job = await withEvents(store, 2)
    t.equal(await store.nextDelivery(job.record.id, null), null)
    t.equal(await store.nextDelivery(uuidv7(), null), null)
    t.equal(await store.callback(uuidv7()), null)
    t.equal(await store.setCallback(uuidv7(), { url: 'http://a', events: null }, 0), false)
  })
}
