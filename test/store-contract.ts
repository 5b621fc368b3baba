import { EventEmitter, once } from 'node:events'
import { setImmediate as turn } from 'node:timers/promises'
import type { Test } from 'tap'
import { v7 as uuidv7 } from 'uuid'
import { advance, changeOf, draftOf, type Outcome } from '../src/advance.ts'
import { dataOf, eventText, jobText } from '../src/job.ts'
import type { JobEvent, JobRecord } from '../src/messages.ts'
import type { Change, Delivery, Fence, Listener, NewJob, Store } from '../src/store/store.ts'

/** Opens the store, closed when the test ends. Whatever is opened has the same data, as two nodes of a gateway have. */
export type OpenStore = (t: Test) => Promise<Store>

/** What every adapter of the store is held to: the promises in src/store/store.ts. */
export function storeContract(t: Test, openStore: OpenStore): void {
  accepting(t, openStore)
  applying(t, openStore)
  reading(t, openStore)
  following(t, openStore)
  listing(t, openStore)
  watching(t, openStore)
  delivering(t, openStore)
}

function accepting(t: Test, openStore: OpenStore): void {
  t.test('a job that was accepted is there, with its first event and its input', async (t) => {
    const store = await openStore(t)
    const job = newJob({}, { input: '{"n":12345678901234567890}' })
    t.strictSame(await store.accept(job), { status: 'accepted' })
    t.strictSame(await store.load([job.record.id]), [{ record: job.record, version: 1, input: job.input }])
    t.strictSame(await texts(store, job), [job.event])
    t.equal(await store.callback(job.record.id), null)
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
    await store.withdraw(tenant, id)
    t.strictSame(await store.load([id]), [null])
    t.equal(await store.read(id, 0, 10), null)
    t.strictSame(await listed(store, tenant, {}, 10), [])
    await store.postpone(id, 1)
    t.strictSame(own(await store.overdue(1, 1_000, 1), [id]), [])
    const next = newJob({ tenant }, { idempotency: keyed('withdrawn', 'another body') })
    t.strictSame(await store.accept(next), { status: 'accepted' }, 'its key is free again')
    await store.withdraw(tenant, id)
    const last = newJob({ tenant }, { idempotency: keyed('withdrawn') })
    t.strictSame(await store.accept(last), { status: 'mismatch', id: next.record.id })
  })

  t.test('a job that has moved on stays when it is withdrawn, and so does its key', async (t) => {
    const store = await openStore(t)
    const job = newJob({}, { idempotency: keyed('moved on') })
    await store.accept(job)
    await move(store, job, { kind: 'end_requested', ending: 'canceled' })
    await store.withdraw(job.record.tenant, job.record.id)
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

function applying(t: Test, openStore: OpenStore): void {
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

function reading(t: Test, openStore: OpenStore): void {
  t.test('a job is nobody else’s', async (t) => {
    const store = await openStore(t)
    const job = newJob({ tenant: 'mine' })
    await store.accept(job)
    t.equal((await store.get('mine', job.record.id))?.text, jobText(job.record))
    t.equal(await store.get('theirs', job.record.id), null)
    t.equal(await store.get('', job.record.id), null)
    t.equal(await store.get('mine', uuidv7()), null)
  })

  t.test('an ended job’s text is its terminal event’s data, byte for byte', async (t) => {
    const store = await openStore(t)
    const job = newJob({ metadata: { note: '"data":null,"result":null' } })
    await store.accept(job)
    await move(store, job, { kind: 'started', queue: 'a' })
    const running = await store.get(job.record.tenant, job.record.id)
    t.equal(running?.text, jobText(running?.record ?? job.record))
    await move(store, job, {
      kind: 'completed',
      queue: 'a',
      result: '{"n":12345678901234567890,"x":1.0, "é":"\\u00e9","data":{}}',
    })
    const view = await store.get(job.record.tenant, job.record.id)
    const last = (await all(store, job)).at(-1)
    t.equal(view?.record.status, 'completed')
    t.equal(view?.text, dataOf(last?.text ?? ''))
    t.match(view?.text, /"result":\{"n":12345678901234567890,"x":1\.0, "é":"\\u00e9","data":\{\}\},"error"/)
    const { jobs } = await store.list(job.record.tenant, {}, { limit: 1, after: null })
    t.equal(jobs[0]?.text, view?.text, 'and the same in a list')
  })

  t.test('a journal is read in pages that say whether more follows', async (t) => {
    const store = await openStore(t)
    const job = await withEvents(store, 10)
    const page = async (after: number, limit: number) => {
      const read = await store.read(job.record.id, after, limit)
      return { seqs: read?.events.map(({ seq }) => seq), trimmed: read?.trimmed, more: read?.more }
    }
    t.strictSame(await page(0, 4), { seqs: [1, 2, 3, 4], trimmed: 0, more: true })
    t.strictSame(await page(4, 6), { seqs: [5, 6, 7, 8, 9, 10], trimmed: 0, more: false })
    t.strictSame(await page(0, 10), { seqs: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10], trimmed: 0, more: false })
    t.strictSame(await page(9, 200), { seqs: [10], trimmed: 0, more: false })
    t.strictSame(await page(10, 200), { seqs: [], trimmed: 0, more: false })
    t.strictSame(await page(2 ** 53 - 1, 200), { seqs: [], trimmed: 0, more: false })
    t.equal(await store.read(uuidv7(), 0, 10), null)
  })

  t.test('a page has about 1 MiB at most, and at least one event', async (t) => {
    const store = await openStore(t)
    const job = newJob()
    await store.accept(job)
    const sizes = [300_000, 300_000, 300_000, 300_000, 300_000, 2_500_000, 10, 10]
    for (const size of sizes) {
      await move(store, job, { kind: 'progress', queue: 'a', data: JSON.stringify('x'.repeat(size)) })
    }
    const seen: number[] = []
    for (let more = true; more;) {
      const page = await store.read(job.record.id, seen.at(-1) ?? 0, 1_000)
      const bytes = (page?.events ?? []).map(({ text }) => Buffer.byteLength(text))
      t.ok(bytes.length > 0)
      t.ok(bytes.slice(0, -1).reduce((sum, each) => sum + each, 0) <= 1_048_576)
      seen.push(...(page?.events ?? []).map(({ seq }) => seq))
      more = page?.more ?? false
    }
    t.strictSame(seen, [1, 2, 3, 4, 5, 6, 7, 8, 9])
  })

  t.test('of a long journal the beginning is trimmed, and a page says up to where', async (t) => {
    const store = await openStore(t)
    const job = await withEvents(store, 25, { journalLimit: 10 })
    const page = async (after: number, limit: number) => {
      const read = await store.read(job.record.id, after, limit)
      return { seqs: read?.events.map(({ seq }) => seq), trimmed: read?.trimmed, more: read?.more }
    }
    t.strictSame(await page(0, 3), { seqs: [16, 17, 18], trimmed: 15, more: true })
    t.strictSame(await page(15, 3), { seqs: [16, 17, 18], trimmed: 15, more: true })
    t.strictSame(await page(18, 100), { seqs: [19, 20, 21, 22, 23, 24, 25], trimmed: 15, more: false })
    t.strictSame(await page(25, 100), { seqs: [], trimmed: 15, more: false })
    await move(store, job, { kind: 'completed', queue: 'a', result: '7' })
    t.match(await page(0, 1), { seqs: [17], trimmed: 16 })
    const view = await store.get(job.record.tenant, job.record.id)
    t.match(view?.text, /"result":7,.*"seq":26,/)
  })
}

function following(t: Test, openStore: OpenStore): void {
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
    t.strictSame(events, (await all(here, job)).slice(3))
  })

  t.test('several may follow one job, and each may leave', async (t) => {
    const store = await openStore(t)
    const job = await withEvents(store, 1)
    const [a, b] = [listen(), listen()]
    const leave = await store.follow(job.record.id, a)
    const leaveToo = await store.follow(job.record.id, b)
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

function listing(t: Test, openStore: OpenStore): void {
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

function watching(t: Test, openStore: OpenStore): void {
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
    await store.setCallback(late.record.id, { url: 'http://a', events: null }, 0)
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
    await store.setCallback(id, { url: 'http://a', events: ['*'] }, 0)
    await store.nextDelivery(id, null)
    await move(store, job, ...toTheEnd)
    await store.forget(tenant, id)
    t.strictSame(await store.load([id]), [null])
    t.equal(await store.get(tenant, id), null)
    t.equal(await store.read(id, 0, 10), null)
    t.equal(await store.callback(id), null)
    t.equal(await store.nextDelivery(id, null), null)
    t.equal(await store.setCallback(id, { url: 'http://a', events: null }, 0), false)
    t.strictSame(await listed(store, tenant, {}, 10), [other.record.id])
    t.strictSame(own(await store.overdue(Date.now() + 1e9, 10_000, 1), [id]), [])
    await store.forget(tenant, id)
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

function delivering(t: Test, openStore: OpenStore): void {
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

/** A job of one step, the queue `a`, as it comes from the client. */
export function newJob(fields: Partial<JobRecord> = {}, more: Partial<NewJob> = {}): NewJob {
  const now = Date.now()
  const record: JobRecord = {
    id: uuidv7(),
    tenant: 'tenant',
    type: 'test',
    route: ['a'],
    status: 'queued',
    step: 0,
    attempt: 0,
    active: false,
    ending: null,
    progress: null,
    error: null,
    seq: 1,
    metadata: {},
    priority: 0,
    createdAt: now,
    notBefore: now,
    startedAt: null,
    updatedAt: now,
    finishedAt: null,
    expiresAt: null,
    deadlineAt: now + 600_000,
    retentionMs: 86_400_000,
    journalLimit: 10_000,
    ...fields,
  }
  const event = eventText(record, 'job.queued', jobText(record))
  return { record, event, input: '{"from":1}', callback: null, idempotency: null, ...more }
}

/** Lets something happen to a job, whatever else happens to it meanwhile. */
export async function move(store: Store, job: NewJob, ...outcomes: Outcome[]): Promise<void> {
  for (let status = ''; status !== 'applied';) {
    const applied = await store.apply(null, await changesOf(store, [job], ...outcomes))
    status = applied.status
  }
}

/** The whole journal that is there. */
export async function all(store: Store, { record: { id } }: NewJob): Promise<JobEvent[]> {
  const events: JobEvent[] = []
  for (let more = true; more;) {
    const page = await store.read(id, events.at(-1)?.seq ?? 0, 1_000)
    events.push(...(page?.events ?? []))
    more = page?.more ?? false
  }
  return events
}

/** Numbers from 0 to 1, the same ones for the same seed (Mulberry32). */
export function randomOf(seed: number): () => number {
  let state = seed
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4_294_967_296
  }
}

export function pick<T>(random: () => number, from: readonly T[]): T {
  return from[Math.floor(random() * from.length)] as T
}

const toTheEnd = [{ kind: 'completed', queue: 'a', result: '{}' }] as const satisfies readonly Outcome[]

function keyed(key: string, fingerprint = 'the body'): NonNullable<NewJob['idempotency']> {
  return { key, fingerprint: Buffer.from(fingerprint).toString('base64url'), keepMs: 86_400_000 }
}

async function acceptMany(store: Store, count: number, fields: Partial<JobRecord> = {}): Promise<NewJob[]> {
  const jobs = Array.from({ length: count }, () => newJob(fields))
  await Promise.all(jobs.map((job) => store.accept(job)))
  return jobs
}

/** A job whose journal has this many events. */
async function withEvents(store: Store, count: number, fields: Partial<JobRecord> = {}): Promise<NewJob> {
  const job = newJob(fields)
  await store.accept(job)
  for (let seq = 2; seq <= count; seq++)
    await move(store, job, { kind: 'progress', queue: 'a', data: `${seq}` })
  return job
}

async function changesOf(store: Store, jobs: readonly NewJob[], ...outcomes: Outcome[]): Promise<Change[]> {
  const stored = await store.load(idsOf(jobs))
  return stored.flatMap((job) => {
    if (!job) return []
    const draft = draftOf(job)
    for (const outcome of outcomes) advance(draft, outcome, Date.now())
    return [changeOf(draft)]
  })
}

async function changesTold(store: Store, told: readonly { id: string; n: number }[]): Promise<Change[]> {
  const stored = await store.load([...new Set(told.map(({ id }) => id))])
  return stored.flatMap((job) => {
    if (!job) return []
    const draft = draftOf(job)
    for (const { id, n } of told) {
      if (id === job.record.id) advance(draft, { kind: 'progress', queue: 'a', data: `{"output":${n}}` }, 0)
    }
    return [changeOf(draft)]
  })
}

async function texts(store: Store, job: NewJob): Promise<string[]> {
  return (await all(store, job)).map(({ text }) => text)
}

async function listed(
  store: Store,
  tenant: string,
  filter: Parameters<Store['list']>[1],
  limit: number,
): Promise<string[]> {
  const ids: string[] = []
  for (let after: string | null = null; ;) {
    const page = await store.list(tenant, filter, { limit, after })
    ids.push(...page.jobs.map(({ record }) => record.id))
    after = page.next
    if (after === null) return ids
  }
}

async function due(store: Store, id: string, settled: Delivery | null = null): Promise<Delivery> {
  const delivery = await store.nextDelivery(id, settled)
  if (!delivery) throw new Error('Expected a delivery to be due, got none')
  return delivery
}

function idsOf(jobs: readonly NewJob[]): string[] {
  return jobs.map(({ record }) => record.id)
}

function own(named: readonly string[], ids: readonly string[]): string[] {
  return named.filter((id) => ids.includes(id))
}

/** A listener that keeps what it hears. */
export interface Heard extends Listener {
  readonly heard: readonly JobEvent[]
  /** All that was heard, once one such event was. */
  until(isEnough: (event: JobEvent) => boolean): Promise<readonly JobEvent[]>
  /** Resolves at the next (or, with `count`, a further) interruption. */
  interruption(count?: number): Promise<void>
}

export function listen(): Heard {
  const heard: JobEvent[] = []
  const emitter = new EventEmitter().setMaxListeners(0)
  const interruptions: true[] = []
  return {
    heard,
    events(events) {
      heard.push(...events)
      emitter.emit('change')
    },
    interrupted() {
      interruptions.push(true)
      emitter.emit('change')
    },
    async until(isEnough) {
      while (!heard.some(isEnough)) await once(emitter, 'change')
      return heard
    },
    async interruption(count = 1) {
      while (interruptions.length < count) await once(emitter, 'change')
    },
  }
}
