import { setImmediate as turn } from 'node:timers/promises'
import type { Test } from 'tap'
import { v7 as uuidv7 } from 'uuid'
import { changeOf, draftOf, type Outcome } from '../../src/advance.ts'
import { dataOf } from '../../src/job.ts'
import type { Fence, NewJob, Store } from '../../src/store/store.ts'
import {
  newJob,
  move,
  all,
  randomOf,
  pick,
  toTheEnd,
  acceptMany,
  changesOf,
  changesTold,
  texts,
  idsOf,
  type OpenStore,
} from './jobs.ts'

export function applying(t: Test, openStore: OpenStore): void {
  t.test('a source applies its changes together with its cursor', async (t) => {
    const store = await openStore(t)
    const source = uuidv7()
    const jobs = await acceptMany(store, 3)
    t.equal(await store.cursor(source), null)
    const changes = await changesOf(store, jobs, { kind: 'started', queue: 'a' })
    t.match(await store.apply({ source, from: null, to: '7-0' }, changes), { status: 'applied' })
    t.equal(await store.cursor(source), '7-0')
    for (const [index, stored] of (await store.load(idsOf(jobs))).entries()) {
      t.strictSame(stored, { record: changes[index]?.record, version: 2, input: null })
    }
    t.match(await store.apply({ source, from: '7-0', to: '8-0' }, []), { status: 'applied' })
    t.equal(await store.cursor(source), '8-0')
    t.equal(await store.cursor(uuidv7()), null, 'the cursor of another source is its own')
  })

  t.test('when the cursor is not where it was, nothing is written', async (t) => {
    const store = await openStore(t)
    const source = uuidv7()
    const jobs = await acceptMany(store, 2)
    const changes = await changesOf(store, jobs, { kind: 'started', queue: 'a' })
    const fenced = async (fence: Fence, cursor: string | null) => {
      t.strictSame(await store.apply(fence, changes), { status: 'fenced', cursor })
      t.equal(await store.cursor(source), cursor)
      for (const job of jobs) {
        t.strictSame(await store.load([job.record.id]), [
          { record: job.record, version: 1, input: job.input },
        ])
        t.strictSame(await texts(store, job), [job.event])
      }
    }
    await fenced({ source, from: '1-0', to: '2-0' }, null)
    await store.apply({ source, from: null, to: '5-0' }, [])
    await fenced({ source, from: null, to: '6-0' }, '5-0')
    await fenced({ source, from: '4-0', to: '6-0' }, '5-0')
  })

  t.test('when some jobs have changed since, those are named and nothing is written', async (t) => {
    const store = await openStore(t)
    const source = uuidv7()
    const jobs = await acceptMany(store, 4)
    const [a, b, c, d] = jobs as [NewJob, NewJob, NewJob, NewJob]
    const changes = await changesOf(store, jobs, { kind: 'started', queue: 'a' })
    await move(store, b, { kind: 'end_requested', ending: 'canceled' })
    await move(store, d, ...toTheEnd)
    await store.forget(d.record.tenant, d.record.id)
    const applied = await store.apply({ source, from: null, to: '1-0' }, changes)
    t.strictSame(applied, { status: 'conflict', ids: [b.record.id, d.record.id] })
    t.equal(await store.cursor(source), null)
    t.strictSame((await store.load([a.record.id]))[0]?.version, 1)
    for (const job of [a, b, c]) t.strictSame(await texts(store, job), [job.event])
    t.strictSame(await store.load([d.record.id]), [null])
  })

  t.test('a change keeps the stored input, drops it or replaces it', async (t) => {
    const store = await openStore(t)
    const job = newJob({}, { input: '{"first": 1.0}' })
    await store.accept(job)
    const inputAfter = async (change: { input?: string | null }) => {
      const [stored] = await store.load([job.record.id])
      await store.apply(null, [{ version: stored?.version ?? 0, record: job.record, events: [], ...change }])
      return (await store.load([job.record.id]))[0]?.input
    }
    t.equal(await inputAfter({}), '{"first": 1.0}')
    for (const input of ['{"second":12345678901234567890}', '""', '-', '=', 'null']) {
      t.equal(await inputAfter({ input }), input)
    }
    t.equal(await inputAfter({}), 'null')
    t.equal(await inputAfter({ input: null }), null)
    t.equal(await inputAfter({}), null)
    t.equal(await inputAfter({ input: '[]' }), '[]')
  })

  t.test('the jobs that have an event for their return address are named, and no others', async (t) => {
    const store = await openStore(t)
    const filters = [null, ['*'], ['step.started'], ['job.progress', 'step.retrying'], undefined] as const
    const jobs = filters.map((events) =>
      newJob({}, { callback: events === undefined ? null : { url: 'http://a', events } }),
    )
    for (const job of jobs) await store.accept(job)
    const named = async (...outcomes: Outcome[]) => {
      const drafts = await changesOf(store, jobs, ...outcomes)
      const applied = await store.apply(null, drafts)
      if (applied.status !== 'applied') return applied
      return idsOf(jobs).flatMap((id, index) => (applied.callbacks.includes(id) ? [index] : []))
    }
    t.strictSame(await named({ kind: 'end_requested', ending: 'canceled' }), [], 'no event at all')
    t.strictSame(await named({ kind: 'started', queue: 'a' }), [1, 2])
    t.strictSame(await named({ kind: 'progress', queue: 'a', data: '{"message":"job.completed"}' }), [1, 3])
    t.strictSame(await named({ kind: 'completed', queue: 'a', result: '1' }), [0, 1])
  })

  for (const seed of [1, 2, 3, 4, 5]) {
    t.test(`two that apply one source in any interleaving apply it once (seed ${seed})`, async (t) => {
      const stores = [await openStore(t), await openStore(t)] as const
      const jobs = await acceptMany(stores[0], 4)
      const random = randomOf(seed)
      const source = uuidv7()
      const log = Array.from({ length: 80 }, (_, n) => ({ id: pick(random, idsOf(jobs)), n }))
      const appliers = new AbortController()
      const applier = async (store: Store) => {
        let position: string | null = null
        while (position === null || Number(position) < log.length) {
          // Sometimes from where it thinks it is, which may be long past; sometimes from what the store says.
          if (random() < 0.3) position = await store.cursor(source)
          const from: string | null = random() < 0.2 ? null : position
          const batch = log.slice(Number(from), Number(from) + 1 + Math.floor(random() * 9))
          const fence = { source, from, to: String(Number(from) + batch.length) }
          for (let answer = 'conflict'; answer === 'conflict';) {
            const changes = await changesTold(store, batch)
            for (let waits = Math.floor(random() * 3); waits > 0; waits--) await turn()
            const applied = await store.apply(fence, changes)
            answer = applied.status
            if (applied.status === 'applied') position = fence.to
            else if (applied.status === 'fenced') position = applied.cursor
          }
        }
      }
      /** The gateway itself changes jobs in between. */
      const meddler = async () => {
        while (!appliers.signal.aborted) {
          const [stored] = await stores[0].load([pick(random, idsOf(jobs))])
          if (stored) await stores[0].apply(null, [changeOf(draftOf(stored))])
          await turn()
        }
      }
      const meddling = meddler()
      await Promise.all(stores.map(applier))
      appliers.abort()
      await meddling
      t.equal(await stores[0].cursor(source), String(log.length))
      for (const job of jobs) {
        const events = await all(stores[1], job)
        t.strictSame(
          events.map(({ seq }) => seq),
          events.map((_, index) => index + 1),
        )
        const told = events
          .slice(1)
          .map(({ text }) => (JSON.parse(dataOf(text)) as { output: number }).output)
        const expected = log.filter(({ id }) => id === job.record.id).map(({ n }) => n)
        t.strictSame(told, expected)
      }
    })
  }
}
