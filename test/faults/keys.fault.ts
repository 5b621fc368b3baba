import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'
import { UnrecoverableError } from 'bullmq'
import type { Redis } from 'ioredis'
import t, { type Test } from 'tap'
import { startGateway, type TestGateway } from '../gateway.ts'

const JOBS = 10_000
const AT_ONCE = 50
/** BullMQ's copies and events stay for a minute, and are looked for every ten seconds. */
const SETTLE_MS = 240_000

const types = {
  done: { steps: ['keys-first', 'keys-last'], retention_s: 1 },
  failed: { steps: ['keys-failing'], attempts: 1, retention_s: 1 },
  canceled: { steps: ['keys-idle'], retention_s: 1 },
}
const kinds = ['done', 'failed', 'canceled', 'called back', 'keyed'] as const
type Kind = (typeof kinds)[number]

/** What is told by a dashboard or a webhook's queue for its time: BullMQ bounds these itself, to about 10,000 entries. */
const STREAM_BOUND = 11_000

t.test('when 10,000 jobs have come, ended and expired, every key is as it was', async (t) => {
  const gateway = await startGateway(t, types)
  const client = gateway.redis.connect()
  await gateway.work('keys-first', async () => ({ n: 1 }), { concurrency: 20 })
  await gateway.work('keys-last', async () => ({ n: 2 }), { concurrency: 20 })
  const fail = async () => Promise.reject(new UnrecoverableError('no luck'))
  await gateway.work('keys-failing', fail, { concurrency: 20 })
  const receiver = await startReceiver(t)

  // Once each, so that everything is there that is made at first use.
  for (const kind of kinds) await submit(gateway, kind, receiver.url, -1)
  const atFirst = await settled(client, false)

  const counts = new Map<Kind, number>()
  let submitted = 0
  const startedAt = Date.now()
  const submitter = async () => {
    for (let n = submitted++; n < JOBS; n = submitted++) {
      const kind = kindOf(n)
      await submit(gateway, kind, receiver.url, n)
      counts.set(kind, (counts.get(kind) ?? 0) + 1)
    }
  }
  await Promise.all(Array.from({ length: AT_ONCE }, submitter))
  const submittedMs = Date.now() - startedAt
  while ((await client.zcard('{quartet}:due')) > 0) await delay(200)
  const forgottenMs = Date.now() - startedAt
  const most = await client.dbsize()
  const atLast = await settled(client, true)

  const total = (kind: Kind) => counts.get(kind) ?? 0
  t.strictSame(sizesOf(atLast), sizesOf(atFirst), 'the same keys, as large as they were')
  t.equal(atLast.copies, 0, 'with nothing that BullMQ kept of completed jobs')
  t.equal(
    atLast.failed - atFirst.failed,
    total('failed'),
    'but for what BullMQ keeps of failed jobs for a day',
  )
  t.equal(
    atLast.idempotency - atFirst.idempotency,
    total('keyed'),
    'and idempotency keys, which go by themselves',
  )
  t.strictSame(atLast.unbounded, [], 'and streams within their bounds')
  t.ok(receiver.count() >= total('called back'))
  t.comment(
    `keys: ${JOBS} jobs submitted in ${submittedMs} ms, all forgotten after ${forgottenMs} ms · ` +
      `${most} keys then (BullMQ's copies), ${atFirst.keys} at first, ${atLast.keys} in the end, ` +
      `of which ${atLast.failed} are BullMQ's of failed jobs and ${atLast.idempotency} idempotency keys`,
  )
})

function kindOf(n: number): Kind {
  return kinds[n % 20] ?? 'done'
}

async function submit({ app }: TestGateway, kind: Kind, receiver: string, n: number): Promise<void> {
  const response = await app.inject({
    method: 'POST',
    url: '/jobs',
    headers: kind === 'keyed' ? { 'idempotency-key': `keys ${n}` } : {},
    payload: {
      type: kind === 'failed' || kind === 'canceled' ? kind : 'done',
      ...(kind === 'called back' && { callback_url: receiver, callback_events: ['*'] }),
    },
  })
  if (response.statusCode !== 202) throw new Error(`Expected 202, got ${response.statusCode}`)
  if (kind !== 'canceled') return
  const { job_id: id } = response.json<{ job_id: string }>()
  const canceled = await app.inject({ method: 'POST', url: `/jobs/${id}/cancel` })
  if (canceled.statusCode !== 200) throw new Error(`Expected 200, got ${canceled.statusCode}`)
}

interface Inventory {
  readonly keys: number
  /** Every other key, but for streams, and how many entries it has. */
  readonly entries: ReadonlyMap<string, number>
  /** BullMQ's keys of completed jobs. */
  readonly copies: number
  readonly failed: number
  readonly idempotency: number
  readonly unbounded: readonly string[]
}

/** Waits until nothing is left of any job but what is kept for its time, then counts. */
async function settled(client: Redis, withoutCopies: boolean): Promise<Inventory> {
  const until = Date.now() + SETTLE_MS
  for (;;) {
    const inventory = await take(client)
    const isForgotten = ![...inventory.entries.keys()].some((key) =>
      /:(callbacks|due|jobs?|journal|tries)(:|$)/.test(key),
    )
    if ((isForgotten && (!withoutCopies || inventory.copies === 0)) || Date.now() >= until) return inventory
    await delay(1_000)
  }
}

async function take(client: Redis): Promise<Inventory> {
  const keys = await client.keys('*')
  const entries = new Map<string, number>()
  const unbounded: string[] = []
  let [count, copies, failed, idempotency] = [0, 0, 0, 0]
  const failures = new Set(await client.zrange('bull:keys-failing:failed', '0', '-1'))
  for (const key of keys) {
    const type = await client.type(key)
    // It went while the others were counted.
    if (type === 'none') continue
    count++
    if (key.startsWith('{quartet}:idempotency:') && (await client.pttl(key)) > 0) idempotency++
    else if (failures.has(key.slice('bull:keys-failing:'.length))) failed++
    else if (/^bull:keys-(first|last):([0-9a-f-]{36}|completed)$/.test(key)) copies++
    else if (type === 'stream') unbounded.push(...((await client.xlen(key)) > STREAM_BOUND ? [key] : []))
    else if (key !== 'bull:keys-failing:failed' && !isBrief(key))
      entries.set(key, await sizeOf(client, key, type))
  }
  return { keys: count, entries, copies, failed, idempotency, unbounded }
}

/** Which node collects, and which worker has looked for stalled jobs: each of a few seconds, one a queue. */
function isBrief(key: string): boolean {
  return key.startsWith('{quartet}:lease:') || key.endsWith(':stalled-check')
}

async function sizeOf(client: Redis, key: string, type: string): Promise<number> {
  if (type === 'zset') return client.zcard(key)
  if (type === 'hash') return client.hlen(key)
  if (type === 'list') return client.llen(key)
  if (type === 'set') return client.scard(key)
  return 1
}

function sizesOf({ entries }: Inventory): string[] {
  return [...entries].map(([key, size]) => `${key} ${size}`).toSorted()
}

/** A return address that takes everything. */
async function startReceiver(t: Test): Promise<{ url: string; count(): number }> {
  let count = 0
  const server = createServer((request, response) => {
    request.resume().on('end', () => {
      count++
      response.end()
    })
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => {
    server.close()
    server.closeAllConnections()
  })
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/`, count: () => count }
}
