import { once } from 'node:events'
import { setImmediate as turn } from 'node:timers/promises'
import type { Redis } from 'ioredis'
import t, { type Test } from 'tap'
import { v7 as uuidv7 } from 'uuid'
import { createConnect } from '../src/store/redis/connect.ts'
import { createRedisStore } from '../src/store/redis/redis-store.ts'
import type { Store } from '../src/store/store.ts'
import { startRedis, type TestRedis } from './helper.ts'
import { storeContract } from './store-contract.ts'
import { delivered, failing, handedOver, newUrl } from './store-contract/deliver.ts'
import { all, listen, move, newJob, type StoreOptions } from './store-contract/jobs.ts'

const redis = await startRedis(t)

t.test('the store in Redis keeps the contract', (t) => {
  storeContract(t, (t, options) => openStore(t, redis, options))
  t.end()
})

t.test('an ended job expires some days after its retention, an unfinished one never', async (t) => {
  const store = await openStore(t, redis)
  const client = redis.connect()
  const job = newJob({ retentionMs: 5_000_000 })
  await store.accept(job)
  await move(store, job, { kind: 'started', queue: 'a' })
  const keys = await keysOf(job.record.id)
  t.equal(keys.length, 2)
  for (const key of keys) t.equal(await client.pttl(key), -1)
  await move(store, job, { kind: 'completed', queue: 'a', result: '1' })
  const expiresAt = (await store.load([job.record.id]))[0]?.record.expiresAt ?? 0
  for (const key of keys) {
    const at = await client.pexpiretime(key)
    t.ok(at > expiresAt, 'the watchdog comes first')
    t.ok(at < expiresAt + 7 * 86_400_000)
  }
})

t.test('jobs that an older version starts do not count as a tenant’s that wait for ever', async (t) => {
  const store = await openStore(t, redis)
  const client = redis.connect()
  const [type, tenant] = [uuidv7(), uuidv7()]
  const make = () => newJob({ type, tenant }, { maxWaitingPerTenant: 3 })
  const jobs = [make(), make(), make()]
  for (const job of jobs) await store.accept(job)
  t.strictSame(await store.accept(make()), { status: 'tenant_full' })
  // It knows the set of the type alone.
  for (const { record } of jobs.slice(1)) await client.srem(`{quartet}:waiting:${type}`, record.id)
  for (let n = 0; n < 2; n++) t.strictSame(await store.accept(make()), { status: 'accepted' })
  t.strictSame(await store.accept(make()), { status: 'tenant_full' })
  t.equal(await client.scard(`{quartet}:waiting:${type}:${tenant}`), 3)
})

t.test('of a job that was forgotten or withdrawn no key is left', async (t) => {
  const store = await openStore(t, redis)
  for (const isEnded of [true, false]) {
    const job = newJob({ tenant: uuidv7() }, { callback: { url: 'http://a', events: ['*'] } })
    const { id, tenant } = job.record
    await store.accept(job)
    await store.deliveries.handOver(id)
    t.equal((await keysOf(id)).length, 2)
    if (isEnded) {
      await move(store, job, { kind: 'completed', queue: 'a', result: '1' })
      await store.forget(tenant, id)
    } else {
      await store.withdraw(job.record)
    }
    t.strictSame(await keysOf(id), [])
    t.strictSame(await keysOf(tenant), [])
  }
})

t.test('of an origin to which all is delivered no key is left', async (t) => {
  const store = await openStore(t, redis, { circuitWaitsMs: [1] })
  const url = newUrl()
  const jobs = [await handedOver(store, url), await handedOver(store, url), await handedOver(store, url)]
  const [forgotten, ...rest] = jobs
  let failures = 0
  while (failures < 10) {
    const { claims } = await store.deliveries.claim(1_000, 60_000)
    for (const claim of claims.filter(({ origin }) => origin === url)) {
      await store.deliveries.settle(claim, { ...failing, origin: 'down' })
      failures++
    }
  }
  t.ok((await keysOf(url)).length >= 2, 'while there are deliveries and a circuit')
  if (forgotten) await store.forget(forgotten.tenant, forgotten.id)
  while ((await keysOf(url)).length > 0) {
    const { claims } = await store.deliveries.claim(1_000, 60_000)
    for (const claim of claims.filter(({ origin }) => origin === url)) {
      await store.deliveries.settle(claim, delivered)
    }
  }
  const client = redis.connect()
  for (const key of await client.keys('{quartet}:callbacks*')) {
    if ((await client.type(key)) === 'zset') t.equal(await client.zscore(key, url), null, key)
  }
  for (const { tenant, id } of rest) {
    await store.forget(tenant, id)
    t.strictSame(await keysOf(id), [], 'nor of its jobs, once they are forgotten')
  }
})

t.test('an idempotency key goes by itself', async (t) => {
  const store = await openStore(t, redis)
  const tenant = uuidv7()
  const job = newJob({ tenant }, { idempotency: { key: 'k', fingerprint: 'f', keepMs: 4_000_000 } })
  await store.accept(job)
  const [key = ''] = (await keysOf(tenant)).filter((key) => key.includes('idempotency'))
  const left = await redis.connect().pttl(key)
  t.ok(left > 0 && left <= 4_000_000)
})

t.test('everything is in one slot of a cluster', async (t) => {
  const keys = await redis.connect().keys('*')
  t.ok(keys.length > 10)
  t.strictSame(
    keys.filter((key) => !key.startsWith('{quartet}:')),
    [],
  )
})

t.test('a job that Redis dropped leaves the list when it is looked through', async (t) => {
  const store = await openStore(t, redis)
  const tenant = uuidv7()
  const [gone, kept] = [newJob({ tenant }), newJob({ tenant })]
  for (const job of [gone, kept]) await store.accept(job)
  const client = redis.connect()
  await client.del(await keysOf(gone.record.id))
  const { jobs, next } = await store.list(tenant, {}, { limit: 10, after: null })
  t.strictSame(
    jobs.map(({ record }) => record.id),
    [kept.record.id],
  )
  t.equal(next, null)
  t.strictSame(await client.zrange(`{quartet}:jobs:${tenant}`, '0', '-1'), [kept.record.id])
})

t.test('when the subscriber’s connection is cut, every follower is told and goes on', async (t) => {
  const [store, other] = [await openStore(t, redis), await openStore(t, redis)]
  const jobs = [newJob(), newJob()]
  const heard = [listen(), listen(), listen()]
  for (const job of jobs) await store.accept(job)
  const [a, b] = jobs as [(typeof jobs)[0], (typeof jobs)[0]]
  await store.follow(a.record.id, heard[0]!)
  await store.follow(a.record.id, heard[1]!)
  await store.follow(b.record.id, heard[2]!)
  for (const round of [1, 2, 3]) {
    t.ok(Number(await redis.connect().call('CLIENT', 'KILL', 'TYPE', 'pubsub')) > 0)
    await Promise.all(heard.map((each) => each.interruption(round)))
    for (const job of jobs) await move(other, job, { kind: 'progress', queue: 'a', data: `${round}` })
    await Promise.all(heard.map((each) => each.until(({ seq }) => seq === round + 1)))
  }
  for (const [index, each] of heard.entries()) {
    t.strictSame(each.heard, (await all(store, index < 2 ? a : b)).slice(1))
  }
})

t.test('a follower that joins while the connection is away hears what comes after', async (t) => {
  const store = await openStore(t, redis)
  const [a, b] = [newJob(), newJob()]
  for (const job of [a, b]) await store.accept(job)
  await store.follow(a.record.id, listen())
  const heard = listen()
  await redis.connect().call('CLIENT', 'KILL', 'TYPE', 'pubsub')
  await store.follow(b.record.id, heard)
  await move(store, b, { kind: 'started', queue: 'a' })
  t.strictSame(await heard.until(({ seq }) => seq === 2), (await all(store, b)).slice(1))
})

t.test('a Redis that may drop keys is refused', async (t) => {
  const store = await openStore(t, redis)
  const client = redis.connect()
  t.teardown(() => client.config('SET', 'maxmemory-policy', 'noeviction'))
  await store.check()
  await client.config('SET', 'maxmemory-policy', 'allkeys-lru')
  await t.rejects(store.check(), {
    message: "Expected Redis's maxmemory-policy to be noeviction, got allkeys-lru",
  })
  await client.config('SET', 'maxmemory-policy', 'noeviction')
  await store.check()
})

t.test('a Redis that is full is refused', async (t) => {
  const store = await openStore(t, redis)
  const client = redis.connect()
  t.teardown(() => client.config('SET', 'maxmemory', '0'))
  await client.config('SET', 'maxmemory', '1')
  await t.rejects(store.check(), { message: /full/ })
  await t.rejects(store.accept(newJob()), { message: /^OOM/ }, 'and takes nothing in')
  await client.config('SET', 'maxmemory', '0')
  await store.check()
})

t.test('another tenant’s job costs what an unknown one does, to the byte', async (t) => {
  const own = await startRedis(t)
  const { store, client } = await openStoreAndClient(t, own)
  const job = newJob({ tenant: 'theirs' }, { callback: { url: 'http://a', events: ['*'] } })
  const { id } = job.record
  await store.accept(job)
  await store.deliveries.handOver(id)
  const { claims } = await store.deliveries.claim(1, 60_000)
  if (claims[0]) await store.deliveries.settle(claims[0], { ...failing, ending: 'dead' })
  await move(store, job, { kind: 'completed', queue: 'a', result: JSON.stringify('x'.repeat(100_000)) })

  const asks: readonly ((tenant: string, id: string) => Promise<unknown>)[] = [
    (tenant, id) => store.get(tenant, id),
    (tenant, id) => store.deliveries.record(tenant, id),
    (tenant, id) => store.deliveries.redeliver(tenant, id, 1),
  ]
  const costOf = async (ask: () => Promise<unknown>) => {
    const [read, written] = [client.stream.bytesRead, client.stream.bytesWritten]
    const answer = await ask()
    return { answer, read: client.stream.bytesRead - read, written: client.stream.bytesWritten - written }
  }
  for (const ask of asks) {
    await ask('mine', id) // so that Redis knows the script
    const unknown = await costOf(() => ask('mine', uuidv7()))
    t.strictSame(await costOf(() => ask('mine', id)), unknown, String(ask))
    t.ok((await costOf(() => ask('theirs', id))).read > unknown.read, 'while its own tenant gets more')
  }
  for (const similar of ['their', 'theirs,', 'theirs"', '', 'Theirs', '"theirs"'])
    t.equal(await store.get(similar, id), null)
})

t.test('a record of version 0.1.0 is its tenant’s too', async (t) => {
  const store = await openStore(t, redis)
  const job = newJob({ tenant: 'a "tenant"' })
  await store.accept(job)
  await redis.connect().hset(`{quartet}:job:${job.record.id}`, 'record', JSON.stringify(job.record))
  t.strictSame((await store.get('a "tenant"', job.record.id))?.record, job.record)
  t.equal(await store.get('a tenant', job.record.id), null)
})

t.test('while Redis is away every call fails at once, and works again afterwards', async (t) => {
  const own = await startRedis(t)
  const store = await openStore(t, own)
  const job = newJob()
  const { id, tenant } = job.record
  await store.accept(job)
  await own.stop()
  const calls: (() => Promise<unknown>)[] = [
    () => store.accept(newJob()),
    () => store.withdraw(job.record),
    () => store.load([id]),
    () => store.apply({ source: 's', from: null, to: '1' }, []),
    () => store.cursor('s'),
    () => store.get(tenant, id),
    () => store.read(id, 0, 10),
    () => store.list(tenant, {}, { limit: 1, after: null }),
    () => store.overdue(0, 1, 1),
    () => store.postpone(id, 0),
    () => store.suspectAll(0),
    () => store.forget(tenant, id),
    () => store.lease('s', 'a', 1),
    () => store.announce('n', [], 1),
    () => store.backlog(['test']),
    () => store.release('s', 'a'),
    () => store.deliveries.handOver(id),
    () => store.deliveries.setCallback(id, { url: 'http://a', events: null }, 0),
    () => store.deliveries.callback(id),
    () => store.deliveries.claim(1, 1),
    () => store.deliveries.record(tenant, id),
    () => store.deliveries.dead(tenant, {}, { limit: 1, after: null }),
    () => store.deliveries.redeliver(tenant, id, 1),
    () => store.deliveries.openCircuits(1),
    () => store.apiKeys.find('k'),
    () => store.apiKeys.revocations(),
    () => store.apiKeys.list(),
    () => store.apiKeys.revoke('k'),
    () => store.apiKeys.tokenSecret('s'),
    () => store.limits.count('n', 1, 1),
    () => store.limits.hold('n', 'a', { held: 0, more: 1, most: 1, ttlMs: 1 }),
    () => store.check(),
  ]
  for (const call of calls) await t.rejects(call(), Error, String(call))
  await own.start()
  while (
    !(await store.check().then(
      () => true,
      () => false,
    ))
  )
    await turn()
  t.match(await store.load([id]), [{ record: { id }, version: 1 }])
})

async function openStore(t: Test, redis: TestRedis, options?: StoreOptions): Promise<Store> {
  return (await openStoreAndClient(t, redis, options)).store
}

async function openStoreAndClient(t: Test, { url }: TestRedis, options?: StoreOptions) {
  // Connections break when a test stops or cuts them.
  const connect = createConnect(url, () => undefined)
  const client = connect('command')
  await once(client, 'ready')
  const store = createRedisStore(client, connect, options)
  t.teardown(async () => {
    await store.close()
    client.disconnect()
  })
  return { store, client: client as Redis }
}

async function keysOf(name: string): Promise<string[]> {
  return redis.connect().keys(`*${name}*`)
}
