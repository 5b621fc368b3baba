import type { Test } from 'tap'
import { v7 as uuidv7 } from 'uuid'
import { newJob, move, all, toTheEnd, withEvents, changesOf, listen, type OpenStore } from './jobs.ts'

export function following(t: Test, openStore: OpenStore): void {
  t.test('a follower gets what is applied from then on, on whichever node, in order', async (t) => {
    const [here, there] = [await openStore(t), await openStore(t)] as const
    const job = await withEvents(here, 3)
    const other = newJob()
    await there.accept(other)
    const heard = listen()
    await here.follow(job.record.id, heard)
    for (const output of [1, 2, 3, 4, 5]) {
      await move(there, other, { kind: 'progress', queue: 'a', data: `"other ${output}"` })
      await move(there, job, { kind: 'progress', queue: 'a', data: `${output}` })
    }
    await move(there, job, ...toTheEnd)
    const events = await heard.until(({ terminal }) => terminal)
    // In a cluster what was applied just before may come as well.
    const since = events.filter(({ seq }) => seq > 3)
    t.strictSame(since, (await all(here, job)).slice(3))
  })

  t.test('several may follow one job, and each may leave', async (t) => {
    const store = await openStore(t)
    const job = await withEvents(store, 1)
    const [a, b] = [listen(), listen()]
    const { unfollow: leave } = await store.follow(job.record.id, a)
    const { unfollow: leaveToo } = await store.follow(job.record.id, b)
    await move(store, job, { kind: 'started', queue: 'a' })
    await Promise.all([a, b].map((each) => each.until(({ seq }) => seq === 2)))
    leave()
    leave()
    await move(store, job, { kind: 'progress', queue: 'a', data: '1' })
    await b.until(({ seq }) => seq === 3)
    t.equal(a.heard.length, 1)
    leaveToo()

    const again = listen()
    await store.follow(job.record.id, again)
    await move(store, job, { kind: 'progress', queue: 'a', data: '2' })
    await again.until(({ seq }) => seq === 4)
    t.equal(a.heard.length, 1)
    t.equal(b.heard.length, 2)
  })

  t.test('what is refused is not heard, nor what has no event', async (t) => {
    const store = await openStore(t)
    const job = await withEvents(store, 1)
    const heard = listen()
    await store.follow(job.record.id, heard)
    const changes = await changesOf(store, [job], { kind: 'started', queue: 'a' })
    await store.apply({ source: uuidv7(), from: 'elsewhere', to: '1' }, changes)
    await move(store, job, { kind: 'end_requested', ending: 'canceled' })
    await store.apply(null, changes)
    await move(store, job, { kind: 'canceling' })
    const events = await heard.until(({ type }) => type === 'job.canceling')
    t.strictSame(
      events.map(({ seq }) => seq),
      [2],
    )
  })
}
