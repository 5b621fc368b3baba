import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { all, ndjson, seqOf } from '../e2e/modes.ts'
import { startGatewayProcess, submit } from '../e2e/processes.ts'
import { startGateway } from '../gateway.ts'
import { startRedis } from '../helper.ts'
import { startProxy } from './proxy.ts'
import { times } from './report.ts'

/** All but progress, of which the latest may go for the others. */
const EVENTS = ['job.queued', 'step.started', 'job.completed']
/** A claim of a node that was killed runs out, and a few more that waited behind it. */
const WITHIN_MS = 90_000

/** Room for what killed nodes have claimed, which is to run out first; otherwise each kill would stop all for as long. */
const env = { QUARTET_CALLBACK_CONCURRENCY: '1000' }
const JOBS_A_KILL = 60
// Mostly they wait for claims to run out.
t.jobs = 3

t.test(
  'nodes killed in the middle of deliveries, one after another, lose none',
  { buffered: true },
  async (t) => {
    const redis = await startRedis(t)
    const gateway = await startGatewayProcess(t, { redis, roles: 'http,collect,workers' })
    const receiver = await startReceiver(t)
    const startNode = () => startGatewayProcess(t, { redis, roles: 'callbacks', env })
    const nodes = [await startNode(), await startNode()]
    const job = { type: 'echo', input: {}, callback_url: receiver.url, callback_events: EVENTS }
    const ids: string[] = []
    const kills = times(60, 3)
    for (let kill = 1; kill <= kills; kill++) {
      const half = receiver.answered(receiver.deliveries.length + (JOBS_A_KILL * EVENTS.length) / 2)
      const submitted = Promise.all(Array.from({ length: JOBS_A_KILL }, () => submit(gateway.url, job)))
      // Right after an answer has left: whoever got it has not put it on record yet.
      await half
      const oldest = nodes.shift()
      oldest?.child.kill('SIGKILL')
      ids.push(...(await submitted))
      await oldest?.exited
      nodes.push(await startNode())
    }

    const { missing, disordered } = await judge(gateway.url, ids, receiver)
    const { deliveries } = receiver
    const bodies = new Map(deliveries.map(({ id, body }) => [id, body]))
    const repeated = deliveries.length - bodies.size
    const dead = await fetch(`${gateway.url}/deliveries?status=dead`)
    t.comment(
      `nodes killed: ${ids.length} jobs accepted, ${bodies.size} events delivered, ` +
        `${repeated} of them again after ${kills} kills, ${missing.length} missing, ${disordered.length} out of order`,
    )
    t.same(missing, [], 'every event has arrived, as the journal has it')
    t.same(disordered, [], 'and before it those before it')
    t.ok(
      deliveries.every(({ id, body }) => bodies.get(id) === body),
      'what arrives again is the same',
    )
    t.match(await dead.json(), { deliveries: [] }, 'nothing was given up')
  },
)

t.test(
  'what was answered, and never put on record, is delivered again under the same id',
  { buffered: true },
  async (t) => {
    const { receiver, record } = await cutOffAtRecording(t, false)
    await receiver.answered(2)
    const [first, again] = receiver.deliveries
    t.same(again, first)
    const [delivery] = await record()
    t.match(delivery, { webhook_id: first?.id, status: 'delivered', tries: { length: 1 } })
  },
)

t.test(
  'what was put on record is not delivered again, though the node never heard of it',
  { buffered: true },
  async (t) => {
    const { receiver, record } = await cutOffAtRecording(t, true)
    const [delivery] = await record()
    t.match(delivery, { webhook_id: receiver.deliveries[0]?.id, status: 'delivered', next_try_at: null })
    t.equal(receiver.deliveries.length, 1)
  },
)

/** A node that delivers an event, and is cut off when it puts that on record; then another takes over. */
async function cutOffAtRecording(t: Test, isForwarded: boolean) {
  const redis = await startRedis(t)
  const receiver = await startReceiver(t)
  const types = { one: { steps: ['one'] } }
  const proxy = await startProxy(t, redis.port, {
    at: 1,
    isForwarded,
    // What becomes of a try is written to the tries of its job. A Redis that has not seen the script yet gets all of it.
    counts: ([name = '', ...words]) =>
      /^eval$/i.test(name) && words.some((word) => word.startsWith('{quartet}:tries:')),
  })
  const url = `redis://127.0.0.1:${proxy.port}`
  const node = await startGateway(t, types, { redis: { ...redis, url } })
  await node.work('one', async () => 1)
  const answer = await node.post({ type: 'one', callback_url: receiver.url })
  const { job_id: id } = (await answer.json()) as { job_id: string }
  await receiver.answered(1)
  await proxy.cut
  const closing = node.app.close()
  const heir = await startGateway(t, types, { redis })
  t.teardown(() => closing)

  /** The job's deliveries, once none is pending. */
  async function record(): Promise<readonly unknown[]> {
    for (;;) {
      const found = await fetch(`${heir.url}/jobs/${id}/deliveries`)
      const { deliveries } = (await found.json()) as { deliveries: { status: string }[] }
      if (deliveries.length > 0 && deliveries.every(({ status }) => status !== 'pending')) return deliveries
      await delay(50)
    }
  }
  return { receiver, record }
}

/** Holds every job's journal against what has arrived, once it has or the time is over. */
async function judge(url: string, ids: readonly string[], { deliveries }: Receiver) {
  const missing: string[] = []
  const disordered: string[] = []
  const arrived = new Map<string, Set<string>>(ids.map((id) => [id, new Set()]))
  let seen = 0
  const until = Date.now() + WITHIN_MS
  for (const [id, bodies] of arrived) {
    const journal = await all(ndjson(url, id, 0))
    const wanted = journal.filter((text) => EVENTS.some((type) => text.includes(`"type":"${type}"`)))
    for (;;) {
      for (; seen < deliveries.length; seen++) {
        const { id = '', body = '' } = deliveries[seen] ?? {}
        arrived.get(id.split('.')[0] ?? '')?.add(body)
      }
      if (bodies.size >= wanted.length || Date.now() > until) break
      await delay(100)
    }
    missing.push(...wanted.filter((text) => !bodies.has(text)).map((text) => `${id}.${seqOf(text)}`))
    const seqs = [...bodies].map(seqOf)
    if (seqs.some((seq, index) => index > 0 && seq <= (seqs[index - 1] ?? 0)))
      disordered.push(`${id}: ${seqs.join()}`)
  }
  return { missing, disordered }
}

interface Receiver {
  readonly url: string
  /** In the order in which they came. */
  readonly deliveries: readonly { readonly id: string; readonly body: string }[]
  /** Resolves when so many have been answered. */
  answered(count: number): Promise<void>
}

/** A return address that takes everything. */
async function startReceiver(t: Test): Promise<Receiver> {
  const deliveries: { id: string; body: string }[] = []
  const waiting: { count: number; resolve: () => void }[] = []
  const server = createServer((request, response) => {
    const chunks: Buffer[] = []
    request.on('data', (chunk: Buffer) => chunks.push(chunk))
    request.on('end', () => {
      const body = Buffer.concat(chunks).toString()
      deliveries.push({ id: String(request.headers['webhook-id']), body })
      response.writeHead(200).end()
      for (const { count, resolve } of waiting) if (deliveries.length >= count) resolve()
    })
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => {
    server.close()
    server.closeAllConnections()
  })
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/`,
    deliveries,
    answered: (count) =>
      deliveries.length >= count
        ? Promise.resolve()
        : new Promise((resolve) => waiting.push({ count, resolve })),
  }
}
