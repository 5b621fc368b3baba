import { resolve } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { all, ndjson, poll, startReceiver } from '../e2e/modes.ts'
import { startGatewayProcess, submit, type GatewayProcess } from '../e2e/processes.ts'
import { startRedis, type TestRedis } from '../helper.ts'
import { startLoad } from './load.ts'
import { settle, times } from './report.ts'

const job = { type: 'countdown', input: { from: 3, interval_ms: 20 } }
const queues = ['chat', 'countdown', 'echo', 'inventory', 'notification', 'payment', 'shipping']
/** How long another node may take to collect from a dead one's queues. */
const TAKEOVER_MS = 6_000

t.test('four nodes share the queues out, and take over from one that is killed within 6 s', async (t) => {
  const redis = await startRedis(t)
  const start = () => startGatewayProcess(t, { redis, roles: 'http,collect' })
  const nodes = await Promise.all([start(), start(), start(), start()])
  await Promise.all(Array.from({ length: 4 }, () => startGatewayProcess(t, { redis, roles: 'workers' })))
  await whenShared(nodes)
  const urls = nodes.map(({ url }) => url)
  const load = startLoad({ urls, concurrency: 16, job })
  const recoveriesMs: number[] = []
  for (let kill = 1; kill <= times(10, 2); kill++) {
    await load.whenAccepted(load.accepted.length + 300)
    const shares = await Promise.all(nodes.map(shareOf))
    const victim = shares.findIndex((share) => share.includes('countdown'))
    const since = Date.now()
    nodes[victim]?.child.kill('SIGKILL')
    urls[victim] = urls[(victim + 1) % urls.length] ?? ''
    const others = nodes.filter((_, index) => index !== victim)
    await whenShared(others)
    recoveriesMs.push(Date.now() - since)
    const next = await start()
    nodes[victim] = next
    urls[victim] = next.url
    await whenShared(nodes)
  }
  const longest = Math.max(...recoveriesMs)
  t.ok(longest <= TAKEOVER_MS, `every queue is collected again after at most ${longest} ms`)
  await settle(t, 'collecting node killed, of 4', load, { url: urls[0] ?? '', recoveriesMs })
})

t.test('nodes whose clocks are five minutes off keep the order, the deadlines and the delays', async (t) => {
  const redis = await startRedis(t)
  const roles = 'http,collect,callbacks'
  const ahead = await startSkewed(t, { redis, roles, skewMs: 300_000 })
  const behind = await startSkewed(t, { redis, roles, skewMs: -300_000 })
  await startGatewayProcess(t, { redis, roles: 'workers' })
  const nodes = [ahead, behind]

  for (const { url } of nodes) {
    const since = Date.now()
    const id = await submit(url, { ...job, delay_ms: 1_500, deadline_ms: 60_000 })
    const [queued = '', started = ''] = await all(ndjson(url, id, 0))
    const [accepted, begun] = [queued, started].map((text) =>
      Date.parse((JSON.parse(text) as { timestamp: string }).timestamp),
    )
    t.ok(Math.abs((accepted ?? 0) - since) < 60_000, 'it was accepted now, by Redis’s clock')
    const waited = (begun ?? 0) - (accepted ?? 0)
    t.ok(waited >= 1_400 && waited < 60_000, `it waited for ${waited} ms`)
  }
  // By turns from a clock that is ahead and one that is behind: the list must have them in the order they came in.
  const ids: string[] = []
  for (let n = 0; n < 20; n++) ids.push(await submit(nodes[n % 2]?.url ?? '', { type: 'echo', input: n }))
  const { jobs } = (await (await fetch(`${ahead.url}/jobs?type=echo`)).json()) as {
    jobs: { job_id: string }[]
  }
  t.same(jobs.map(({ job_id: id }) => id).toReversed(), ids)

  // Whichever of them delivers: who verifies what is signed five minutes off takes it for a replay.
  const receiver = await startReceiver(t)
  await submit(ahead.url, { type: 'echo', input: 1, callback_url: receiver.url })
  await receiver.complete
  const sentAt = Number(receiver.received[0]?.headers['webhook-timestamp']) * 1_000
  t.ok(Math.abs(sentAt - Date.now()) < 60_000, 'it was signed now, by Redis’s clock')

  // Workers with wrong clocks as well: they put off and lose, but nothing may be lost or told twice.
  for (const skewMs of [300_000, -300_000]) await startSkewed(t, { redis, roles: 'workers', skewMs })
  const load = startLoad({ urls: nodes.map(({ url }) => url), concurrency: 16, job })
  await load.whenAccepted(times(10_000, 1_000))
  await settle(t, 'clocks five minutes off', load, { url: behind.url })
  // Long after what a node whose clock is ahead would take for the end of its retention.
  const [kept = ''] = ids
  t.match(JSON.parse((await all(poll(ahead.url, kept, 0))).at(-1) ?? '{}'), { type: 'job.completed' })
})

function startSkewed(
  t: Test,
  { redis, roles, skewMs }: { redis: TestRedis; roles: string; skewMs: number },
): Promise<GatewayProcess> {
  const env = { NODE_OPTIONS: `--import=${resolve('test/faults/skew.mjs')}`, SKEW_MS: String(skewMs) }
  return startGatewayProcess(t, { redis, roles, env })
}

/** The queues that a node collects from, as its metrics say. */
async function shareOf({ url }: GatewayProcess): Promise<string[]> {
  const text = await (await fetch(`${url}/metrics`)).text()
  return [...text.matchAll(/^quartet_collecting\{queue="([^"]+)"\} 1$/gm)].map(([, queue = '']) => queue)
}

/** Resolves when each queue is collected from by one node, and no node has more than its share. */
async function whenShared(nodes: readonly GatewayProcess[]): Promise<void> {
  const fair = Math.ceil(queues.length / nodes.length)
  for (;;) {
    const shares = await Promise.all(nodes.map(shareOf))
    const isWhole = String(shares.flat().toSorted()) === String(queues)
    if (isWhole && shares.every(({ length }) => length <= fair)) return
    await delay(100)
  }
}
