import { setImmediate as turn } from 'node:timers/promises'
import type { Test } from 'tap'
import { v7 as uuidv7 } from 'uuid'
import type { Claim, Settlement } from '../../src/store/deliveries.ts'
import type { Store } from '../../src/store/store.ts'
import { newJob, move, toTheEnd, withEvents, type OpenStore } from './jobs.ts'

const LEASE_MS = 60_000

export function delivering(t: Test, openStore: OpenStore): void {
  t.test('events are delivered one at a time, in order', async (t) => {
    const store = await openStore(t)
    const url = newUrl()
    const job = newJob({}, { callback: { url, events: ['*'] } })
    const { id } = job.record
    await store.accept(job)
    t.strictSame(await store.deliveries.callback(id), state(url, ['*']), 'nothing is handed over by itself')
    await Promise.all(Array.from({ length: 10 }, () => store.deliveries.handOver(id)))
    t.strictSame((await store.deliveries.callback(id))?.pending, { seq: 1, generation: 1 })
    const first = await claimOne(store, id)
    t.match(first, { id, seq: 1, url, origin: url, attempts: 0, isRedelivery: false, isOverdue: false })
    t.equal(first.event?.text, job.event)
    await move(store, job, { kind: 'started', queue: 'a' }, ...toTheEnd)
    await store.deliveries.handOver(id)
    t.strictSame(await claimed(store, id), [], 'the first is still under way')
    await store.deliveries.settle(first, delivered)
    await store.deliveries.settle(first, delivered)
    const second = await claimOne(store, id)
    t.match(second, { seq: 2 }, 'settling twice is harmless')
    await store.deliveries.settle(second, delivered)
    const third = await claimOne(store, id)
    t.match(third, { seq: 3, event: { type: 'job.completed' } })
    await store.deliveries.settle(third, delivered)
    t.strictSame(await claimed(store, id), [])
    t.equal((await store.deliveries.callback(id))?.pending, null)
  })

  t.test('what is delivered next waits until there is something', async (t) => {
    const store = await openStore(t)
    const job = newJob({}, { callback: { url: newUrl(), events: ['step.started'] } })
    const { id } = job.record
    await store.accept(job)
    await store.deliveries.handOver(id)
    t.strictSame(await claimed(store, id), [])
    await move(store, job, { kind: 'started', queue: 'a' })
    await store.deliveries.handOver(id)
    t.match(await claimOne(store, id), { seq: 2 })
  })

  t.test('only the events asked for are delivered, the terminal one by default', async (t) => {
    const store = await openStore(t)
    const job = await withEvents(store, 1)
    const { id } = job.record
    for (let n = 1; n <= 75; n++) {
      await move(
        store,
        job,
        { kind: 'started', queue: 'a' },
        { kind: 'retrying', queue: 'a', reason: 'no', delayMs: 0 },
      )
    }
    await move(store, job, { kind: 'started', queue: 'a' }, { kind: 'failed', queue: 'a', reason: 'no' })
    const seqsOf = async (events: readonly string[] | null, after: number) => {
      const url = newUrl()
      t.equal(await store.deliveries.setCallback(id, { url, events }, after), true)
      t.strictSame((await store.deliveries.callback(id))?.callback, { url, events })
      const seqs: number[] = []
      for (let claims = await claimed(store, id); claims[0]; claims = await claimed(store, id)) {
        seqs.push(claims[0].seq)
        await store.deliveries.settle(claims[0], delivered)
      }
      return seqs
    }
    t.strictSame(await seqsOf(null, 0), [153])
    t.strictSame(await seqsOf(['step.started'], 148), [150, 152])
    t.strictSame(await seqsOf(['step.started', 'job.failed'], 148), [150, 152, 153])
    t.strictSame(await seqsOf(['job.completed'], 0), [])
    t.strictSame(
      await seqsOf(['*'], 0),
      Array.from({ length: 153 }, (_, index) => index + 1),
    )
    t.strictSame(await seqsOf(['job.queued', '*'], 150), [151, 152, 153])
    t.strictSame(await seqsOf(null, 153), [])
  })

  t.test('of progress the latest goes, at once where something follows it', async (t) => {
    const store = await openStore(t)
    const job = await withEvents(store, 30)
    const { id } = job.record
    await store.deliveries.setCallback(id, { url: newUrl(), events: ['*'] }, 0)
    await store.deliveries.settle(await claimOne(store, id), delivered)
    const first = await claimOne(store, id)
    t.equal(first.seq, 30, 'what was there before goes as one')
    await move(store, job, { kind: 'progress', queue: 'a', data: '1' })
    await store.deliveries.settle(first, delivered)
    t.strictSame(await claimed(store, id), [], 'the next has to wait half a second')
    await move(store, job, { kind: 'progress', queue: 'a', data: '2' })
    await store.deliveries.handOver(id)
    t.strictSame(await claimed(store, id), [])
    await move(store, job, ...toTheEnd)
    await store.deliveries.handOver(id)
    const last = await claimOne(store, id)
    t.match(last, { seq: 32, event: { type: 'job.progress' } }, 'the latest, for the end is there')
    await store.deliveries.settle(last, delivered)
    t.match(await claimOne(store, id), { seq: 33, event: { type: 'job.completed' } })
  })

  t.test('progress that nothing follows goes after half a second', async (t) => {
    const store = await openStore(t)
    const job = await withEvents(store, 2)
    const { id } = job.record
    await store.deliveries.setCallback(id, { url: newUrl(), events: ['job.progress'] }, 0)
    await store.deliveries.settle(await claimOne(store, id), delivered)
    await move(store, job, { kind: 'progress', queue: 'a', data: '1' })
    await store.deliveries.handOver(id)
    await move(store, job, { kind: 'progress', queue: 'a', data: '2' })
    let claims: readonly Claim[] = []
    while (claims.length === 0) {
      await turn()
      claims = await claimed(store, id)
    }
    t.match(claims, [{ seq: 4 }])
  })

  t.test('what the journal no longer has is not delivered', async (t) => {
    const store = await openStore(t)
    const job = await withEvents(store, 30, { journalLimit: 10 })
    const { id } = job.record
    await store.deliveries.setCallback(id, { url: newUrl(), events: ['*'] }, 0)
    const claim = await claimOne(store, id)
    t.equal(claim.seq, 30, 'of progress the latest')
    await store.deliveries.settle(claim, { ...failing, at: store.now() })
    for (let n = 1; n <= 10; n++) await move(store, job, { kind: 'progress', queue: 'a', data: `${n}` })
    t.match(await claimOne(store, id), { seq: 30, event: null }, 'trimmed while it was to be tried again')
  })

  t.test('a try that failed is made again when it was said to, and counted', async (t) => {
    const store = await openStore(t)
    const { id } = await handedOver(store)
    const later = store.now() + 60_000
    await store.deliveries.settle(await claimOne(store, id), { ...failing, at: store.now() })
    const second = await claimOne(store, id)
    t.match(second, { attempts: 1 })
    const postponed = { ...failing.record, at: 4 }
    await store.deliveries.settle(second, {
      ...failing,
      ending: 'postponed',
      at: store.now(),
      record: postponed,
    })
    const third = await claimOne(store, id)
    t.match(third, { attempts: 1 }, 'what was postponed counts for nothing')
    const last = { ...failing, at: later, record: { ...failing.record, at: 5 } }
    await store.deliveries.settle(third, last)
    await store.deliveries.settle(third, last)
    t.strictSame(await claimed(store, id), [])
    t.match(await store.deliveries.record(third.tenant, id), {
      deliveries: [{ status: 'pending', nextTryAt: later, tries: { length: 3 } }],
    })
  })

  t.test('of tries that were postponed for the same reason, in a row, the last is kept', async (t) => {
    const store = await openStore(t)
    const { id, tenant } = await handedOver(store)
    const end = async (
      at: number,
      settlement: Partial<Settlement>,
      record: Partial<Settlement['record']>,
    ) => {
      const settled = { ...failing, at: store.now(), ...settlement }
      await store.deliveries.settle(await claimOne(store, id), {
        ...settled,
        record: { ...failing.record, at, ...record },
      })
    }
    const away = { statusCode: null, reason: 'proxy', error: 'away' }
    await end(1, {}, {})
    for (let at = 2; at <= 50; at++) await end(at, { ending: 'postponed' }, { ...away, durationMs: at })
    await end(51, {}, away)
    for (let at = 52; at <= 60; at++) await end(at, { ending: 'postponed' }, away)
    await end(61, { ending: 'postponed' }, { ...away, error: 'still away' })
    const record = await store.deliveries.record(tenant, id)
    t.strictSame(
      record?.deliveries[0]?.tries.map(({ at }) => at),
      [1, 50, 51, 60, 61],
      'they go on for as long as the gateway’s proxy is away',
    )
  })

  t.test('a claim that runs out is made again, and its late end is only recorded', async (t) => {
    const store = await openStore(t)
    const { id } = await handedOver(store)
    const [lost] = await claimed(store, id, 1)
    if (!lost) throw new Error('Expected a claim, got none')
    let again: readonly Claim[] = []
    while (again.length === 0) {
      await turn()
      again = await claimed(store, id)
    }
    t.match(again, [{ seq: lost.seq, attempts: 0 }])
    await store.deliveries.settle(lost, { ...failing, ending: 'dead' })
    t.match(await store.deliveries.record(lost.tenant, id), { deliveries: [{ status: 'pending' }] })
    t.match(await store.deliveries.callback(id), { pending: { seq: lost.seq }, keptUntil: null })
  })

  t.test('a change of the return address makes what is under way void', async (t) => {
    const store = await openStore(t)
    const job = newJob({}, { callback: { url: newUrl(), events: ['*'] } })
    const { id } = job.record
    await store.accept(job)
    await store.deliveries.handOver(id)
    const old = await claimOne(store, id)
    await move(store, job, { kind: 'started', queue: 'a' })
    const url = newUrl()
    await store.deliveries.setCallback(id, { url, events: ['*'] }, 0)
    const fresh = await claimOne(store, id)
    t.match(fresh, { seq: 1, url, origin: url }, 'the new address gets it from where it asked for')
    t.not(fresh.generation, old.generation)
    await store.deliveries.settle(old, delivered)
    t.strictSame((await store.deliveries.callback(id))?.pending, { seq: 1, generation: 2 })
    await store.deliveries.settle(fresh, delivered)
    t.match(await claimOne(store, id), { seq: 2 })
  })

  t.test('when the receiver is gone nothing more is delivered, until it is set again', async (t) => {
    const store = await openStore(t)
    const job = newJob({}, { callback: { url: newUrl(), events: ['*'] } })
    const { id, tenant } = job.record
    await store.accept(job)
    await store.deliveries.handOver(id)
    await store.deliveries.settle(await claimOne(store, id), {
      ending: 'gone',
      origin: 'up',
      record: { ...failing.record, outcome: 'dead' },
    })
    await move(store, job, ...toTheEnd)
    await store.deliveries.handOver(id)
    t.strictSame(await claimed(store, id), [])
    t.match(await store.deliveries.record(tenant, id), { isGone: true, deliveries: [{ status: 'dead' }] })
    await store.deliveries.setCallback(id, { url: newUrl(), events: ['*'] }, 1)
    t.match(await claimOne(store, id), { seq: 2 })
  })

  t.test('an origin with much to do waits for its turn like any other', async (t) => {
    const store = await openStore(t)
    // Whatever other tests left is out of the way.
    await store.deliveries.claim(1_000, LEASE_MS)
    const busy = newUrl()
    const many: string[] = []
    for (let n = 0; n < 11; n++) many.push((await handedOver(store, busy)).id)
    const { id } = await handedOver(store)
    const order: string[] = []
    while (!order.includes(id)) {
      const { claims } = await store.deliveries.claim(1, LEASE_MS)
      for (const claim of claims) {
        // What other tests have put off may become due meanwhile.
        if ([id, ...many].includes(claim.id)) order.push(claim.id)
        await store.deliveries.settle(claim, delivered)
      }
    }
    t.strictSame(order, [many[0], id])
  })

  t.test('a redelivery to an earlier return address is void', async (t) => {
    const store = await openStore(t)
    const { id, tenant } = await handedOver(store)
    const dead = { ...failing, ending: 'dead', record: { ...failing.record, outcome: 'dead' } } as const
    await store.deliveries.settle(await claimOne(store, id), dead)
    t.equal(await store.deliveries.redeliver(tenant, id, 2), 'scheduled')
    await store.deliveries.setCallback(id, { url: newUrl(), events: null }, 0)
    const claim = await claimOne(store, id)
    t.match(claim, { seq: 2, isRedelivery: false })
    await store.deliveries.settle(claim, delivered)
    t.strictSame(await claimed(store, id), [])
  })

  t.test('a job without a return address has nothing to deliver', async (t) => {
    const store = await openStore(t)
    const job = await withEvents(store, 2)
    const { id, tenant } = job.record
    await store.deliveries.handOver(id)
    await store.deliveries.handOver(uuidv7())
    t.equal(await store.deliveries.callback(id), null)
    t.equal(await store.deliveries.callback(uuidv7()), null)
    t.equal(await store.deliveries.setCallback(uuidv7(), { url: newUrl(), events: null }, 0), false)
    t.equal(await store.deliveries.redeliver(tenant, id, 1), 'no_callback')
    t.match(await store.deliveries.record(tenant, id), { origin: null, deliveries: [] })
    t.equal(await store.deliveries.record('another', id), null)
  })
}

export const delivered: Settlement = {
  ending: 'delivered',
  origin: 'up',
  record: {
    type: 'job.completed',
    at: 1,
    durationMs: 2,
    outcome: 'delivered',
    statusCode: 204,
    reason: null,
    error: null,
    isRedelivery: false,
  },
}

export const failing: Settlement = {
  ending: 'retry',
  origin: 'unknown',
  record: {
    type: 'job.completed',
    at: 3,
    durationMs: 4,
    outcome: 'failed',
    statusCode: 500,
    reason: 'http_status',
    error: 'Expected a 2xx status, got 500',
    isRedelivery: false,
  },
}

/** An origin of its own for each. */
export function newUrl(): string {
  return `http://${uuidv7()}.test`
}

/** A job that has ended, and whose end is to be delivered. */
export async function handedOver(store: Store, url = newUrl(), tenant = uuidv7()) {
  const record = await ended(store, url, tenant)
  await store.deliveries.handOver(record.id)
  return record
}

/** A job that has ended, and whose end is to be handed over. */
export async function ended(store: Store, url: string, tenant = uuidv7()) {
  const job = newJob({ tenant }, { callback: { url, events: null } })
  await store.accept(job)
  await move(store, job, ...toTheEnd)
  return job.record
}

/** What of a job is claimed by claiming all that is due. Other tests' jobs are left to run out at once. */
export async function claimed(store: Store, id: string, leaseMs = LEASE_MS): Promise<readonly Claim[]> {
  const { claims } = await store.deliveries.claim(1_000, leaseMs)
  return claims.filter((claim) => claim.id === id)
}

export async function claimOne(store: Store, id: string): Promise<Claim> {
  const [claim] = await claimed(store, id)
  if (!claim) throw new Error(`Expected a try of ${id} to be due, got none`)
  return claim
}

function state(url: string, events: readonly string[] | null) {
  return { callback: { url, events }, pending: null, isRedelivering: false, keptUntil: null }
}
