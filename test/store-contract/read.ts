import type { Test } from 'tap'
import { v7 as uuidv7 } from 'uuid'
import { dataOf, jobText } from '../../src/job.ts'
import { newJob, move, all, withEvents, type OpenStore } from './jobs.ts'

export function reading(t: Test, openStore: OpenStore): void {
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
