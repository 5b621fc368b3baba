import { setImmediate as turn } from 'node:timers/promises'
import type { Test } from 'tap'
import type { Claim, Settlement } from '../../src/store/deliveries.ts'
import type { Store } from '../../src/store/store.ts'
import { claimOne, delivered, failing, handedOver, newUrl } from './deliver.ts'
import type { OpenStore } from './jobs.ts'

const LEASE_MS = 60_000
/** Open for longer than any test takes, or over as soon as it has begun. */
const LONG_MS = 60_000
const MOMENT_MS = 1
const FAILURES = 10

const down: Settlement = { ...failing, origin: 'down' }

export function breaking(t: Test, openStore: OpenStore): void {
  t.test('ten failures in a row open an origin’s circuit, and what waits loses no try', async (t) => {
    const store = await openStore(t, { circuitWaitsMs: [LONG_MS] })
    const url = newUrl()
    const [first] = await handOverMany(store, url, FAILURES + 1)
    const claims = await claimsOf(store, url)
    t.equal(claims.length, FAILURES + 1)
    await settleAll(store, claims.slice(0, FAILURES - 1), down)
    t.match(await recordOf(store, first), { openUntil: null })
    const again = await claimsOf(store, url)
    t.equal(again.length, FAILURES - 1, 'nine are not enough')

    await settleAll(store, claims.slice(FAILURES - 1, FAILURES), down)
    const { openUntil, deliveries } = await recordOf(store, first)
    const waitMs = (openUntil ?? 0) - store.now()
    t.ok(waitMs > 0.7 * LONG_MS && waitMs <= 1.2 * LONG_MS, `open for a wait ± 20 %, for ${waitMs} ms`)
    await settleAll(store, [...claims.slice(FAILURES), ...again], { ...down, ending: 'postponed' })
    t.strictSame(await claimsOf(store, url), [], 'while it is open nothing is claimed')
    t.match(deliveries, [{ status: 'pending' }])
    t.match(
      await recordOf(store, first),
      { openUntil, deliveries: [{ nextTryAt: openUntil }] },
      'those that were under way when it opened do not prolong it',
    )
    const circuits = await store.deliveries.openCircuits(1_000)
    t.strictSame(
      circuits.filter(({ origin }) => origin === url),
      [{ origin: url, until: openUntil }],
    )
    const late = await handedOver(store, url)
    t.strictSame(await claimsOf(store, url), [], 'nor is what comes meanwhile')
    t.equal(await store.deliveries.redeliver(late.tenant, late.id, 2), 'scheduled')
    t.match(await claimOne(store, late.id), { attempts: 0 })
  })

  t.test(
    'services are known to be open until their time is over, or they are reported to be closed',
    async (t) => {
      const [store, other] = [await openStore(t), await openStore(t)]
      const [one, two, past] = [newUrl(), newUrl(), newUrl()]
      const until = store.now() + LONG_MS
      await store.reportService(one, until)
      await store.reportService(two, until + 1)
      await store.reportService(two, until + 2)
      await store.reportService(past, store.now() - 1_000)
      const open = async () =>
        (await other.openServices(1_000)).filter(({ origin }) => [one, two, past].includes(origin))
      t.strictSame(await open(), [
        { origin: one, until },
        { origin: two, until: until + 2 },
      ])
      t.equal((await other.openServices(1)).length, 1)
      await other.reportService(one, null)
      await other.reportService(past, null)
      t.strictSame(await open(), [{ origin: two, until: until + 2 }])
    },
  )

  t.test('another origin’s deliveries go on while a circuit is open', async (t) => {
    const store = await openStore(t, { circuitWaitsMs: [LONG_MS] })
    const [url, other] = [newUrl(), newUrl()]
    await handOverMany(store, url, FAILURES)
    await fail(store, url, FAILURES)
    await handOverMany(store, other, 3)
    t.equal((await claimsOf(store, other)).length, 3)
    t.strictSame(await claimsOf(store, url), [])
  })

  t.test('after its wait one try goes, and when it succeeds all others, as many as may', async (t) => {
    const perOrigin = 3
    const store = await openStore(t, { circuitWaitsMs: [MOMENT_MS], perOrigin })
    const url = newUrl()
    const jobs = await handOverMany(store, url, 8)
    await fail(store, url, FAILURES)
    const probes = await due(store, url)
    t.equal(probes.length, 1, 'one to see')
    t.strictSame(await claimsOf(store, url), [], 'and no other while that is under way')
    t.equal(probes[0]?.isOverdue, false)
    await settleAll(store, probes, delivered)
    t.match(await recordOf(store, jobs[0]), { openUntil: null })
    const circuits = await store.deliveries.openCircuits(1_000)
    t.notOk(circuits.some(({ origin }) => origin === url))
    const batches: number[] = []
    for (let claims = await claimsOf(store, url); claims.length > 0; claims = await claimsOf(store, url)) {
      batches.push(claims.length)
      await settleAll(store, claims, delivered)
    }
    t.strictSame(batches, [3, 3, 1])
  })

  t.test('when the one try fails the circuit stays open for longer', async (t) => {
    const store = await openStore(t, { circuitWaitsMs: [MOMENT_MS, MOMENT_MS, LONG_MS] })
    const url = newUrl()
    const jobs = await handOverMany(store, url, FAILURES)
    await fail(store, url, FAILURES)
    for (const _ of ['second', 'third']) await settleAll(store, await due(store, url), down)
    t.strictSame(await claimsOf(store, url), [])
    const { openUntil } = await recordOf(store, jobs[0])
    t.ok((openUntil ?? 0) > store.now() + 0.7 * LONG_MS)
  })

  t.test('a try that tells nothing of its origin leaves the circuit as it is', async (t) => {
    const store = await openStore(t, { circuitWaitsMs: [LONG_MS] })
    const url = newUrl()
    const [job] = await handOverMany(store, url, 1)
    await fail(store, url, FAILURES - 1)
    await settleAll(store, await claimsOf(store, url), { ...failing, origin: 'unknown' })
    t.match(await recordOf(store, job), { openUntil: null }, 'it is no failure')
    await fail(store, url, 1)
    t.match(await recordOf(store, job), { openUntil: Number }, 'nor a success')
  })

  t.test('failures with a success in between do not open a circuit', async (t) => {
    const store = await openStore(t, { circuitWaitsMs: [LONG_MS] })
    const url = newUrl()
    const [job] = await handOverMany(store, url, 1)
    for (let n = 1; n <= 3; n++) {
      await fail(store, url, FAILURES - 1)
      // Any answer tells that the origin is there.
      await settleAll(store, await claimsOf(store, url), { ...failing, origin: 'up' })
    }
    t.match(await recordOf(store, job), { openUntil: null })
    t.equal((await claimsOf(store, url)).length, 1)
  })

  t.test('what has waited too long for a circuit is to be given up', async (t) => {
    const store = await openStore(t, { circuitWaitsMs: [MOMENT_MS], patienceMs: -1 })
    const url = newUrl()
    const jobs = await handOverMany(store, url, 4)
    const claims = await claimsOf(store, url)
    t.strictSame(
      claims.map(({ isOverdue }) => isOverdue),
      jobs.map(() => false),
      'no wait is too long while it is closed',
    )
    await settleAll(store, claims, { ...failing, origin: 'up' })
    await fail(store, url, FAILURES)
    const overdue = await due(store, url)
    t.strictSame(
      overdue.map(({ isOverdue }) => isOverdue),
      jobs.map(() => true),
      'all of them at once',
    )
    await settleAll(store, overdue, {
      ending: 'dead',
      origin: 'unknown',
      record: { ...failing.record, outcome: 'dead' },
    })
    t.match(await recordOf(store, jobs[0]), { deliveries: [{ status: 'dead' }] })
    t.strictSame(await claimsOf(store, url), [])
  })

  t.test('a redelivery goes through an open circuit, before all that waits for it', async (t) => {
    const store = await openStore(t, { circuitWaitsMs: [LONG_MS] })
    const url = newUrl()
    const done = await handedOver(store, url)
    await settleAll(store, await claimsOf(store, url), delivered)
    const jobs = await handOverMany(store, url, FAILURES)
    await fail(store, url, FAILURES)
    const last = jobs.at(-1)
    if (!last) throw new Error('Expected a job, got none')
    for (const { tenant, id } of [last, done]) {
      t.equal(await store.deliveries.redeliver(tenant, id, 2), 'scheduled')
      const claims = await claimsOf(store, url)
      t.match(claims, [{ id, isRedelivery: id === done.id, isOverdue: false }], 'it and no other')
      t.equal(claims.length, 1)
      await settleAll(store, claims, { ...down, at: store.now() + LONG_MS })
      t.strictSame(await claimsOf(store, url), [], 'it fails, and so the circuit is as open as before')
    }
  })

  t.test('no more of an origin is claimed than may be under way, over all nodes', async (t) => {
    const options = { perOrigin: 5 }
    const nodes = [await openStore(t, options), await openStore(t, options)] as const
    const url = newUrl()
    await handOverMany(nodes[0], url, 12)
    const both = () => Promise.all([...nodes, ...nodes].map((store) => claimsOf(store, url)))
    const claims = (await both()).flat()
    t.equal(claims.length, 5)
    t.equal(new Set(claims.map(({ id }) => id)).size, 5, 'each by one node')
    await settleAll(nodes[1], claims.slice(0, 2), delivered)
    t.equal((await both()).flat().length, 2, 'each that ends makes room for one')
  })

  t.test('of what a node can take each origin gets its share', async (t) => {
    const store = await openStore(t, {})
    // Whatever other tests have left is then under way.
    while ((await store.deliveries.claim(1_000, LEASE_MS)).claims.length > 0);
    const [many, few, more] = [newUrl(), newUrl(), newUrl()]
    for (const [url, count] of [[many, 30] as const, [few, 4] as const, [more, 30] as const])
      await handOverMany(store, url, count)
    const { claims } = await store.deliveries.claim(21, LEASE_MS)
    const countOf = (url: string) => claims.filter(({ origin }) => origin === url).length
    t.equal(claims.length, 21)
    t.equal(countOf(few), 4, 'who has less than its share gets all of it')
    t.ok(countOf(many) >= 7 && countOf(more) >= 7)
  })

  t.test('a job that is forgotten takes no part any more', async (t) => {
    const store = await openStore(t, { perOrigin: 2 })
    const url = newUrl()
    const jobs = await handOverMany(store, url, 4)
    const claims = await claimsOf(store, url)
    t.equal(claims.length, 2)
    for (const { tenant, id } of jobs) await store.forget(tenant, id)
    t.strictSame(await claimsOf(store, url), [])
    await settleAll(store, claims, delivered)
    t.strictSame(await claimsOf(store, url), [])
    await handOverMany(store, url, 3)
    const fresh: Claim[] = []
    // The room for a try may first be used up for finding out that there is nothing to try.
    while (fresh.length < 2) fresh.push(...(await claimsOf(store, url)))
    t.equal(fresh.length, 2, 'and takes no room')
  })
}

type Job = Awaited<ReturnType<typeof handedOver>>

async function handOverMany(store: Store, url: string, count: number): Promise<Job[]> {
  const jobs: Job[] = []
  while (jobs.length < count) jobs.push(await handedOver(store, url))
  return jobs
}

/** What is due of an origin. Other tests' tries are claimed too, and stay under way. */
async function claimsOf(store: Store, url: string): Promise<readonly Claim[]> {
  const { claims } = await store.deliveries.claim(1_000, LEASE_MS)
  return claims.filter(({ origin }) => origin === url)
}

/** The same, once there is something. */
async function due(store: Store, url: string): Promise<readonly Claim[]> {
  for (;;) {
    const claims = await claimsOf(store, url)
    if (claims.length > 0) return claims
    await turn()
  }
}

/** All with the same end; those that are to be tried again, at once. */
async function settleAll(store: Store, claims: readonly Claim[], settlement: Settlement): Promise<void> {
  for (const claim of claims) await store.deliveries.settle(claim, settlement)
}

/** So many failures in a row. */
async function fail(store: Store, url: string, count: number): Promise<void> {
  for (let failed = 0; failed < count;) {
    const claims = await due(store, url)
    await settleAll(store, claims.slice(0, count - failed), down)
    failed += claims.length
    await settleAll(store, claims.slice(claims.length - Math.max(0, failed - count)), {
      ...failing,
      ending: 'postponed',
      origin: 'unknown',
    })
  }
}

async function recordOf(store: Store, job: Job | undefined) {
  const record = job && (await store.deliveries.record(job.tenant, job.id))
  if (!record) throw new Error('Expected a record of the deliveries, got none')
  return record
}
