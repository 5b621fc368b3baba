import { setTimeout as delay } from 'node:timers/promises'
import { Queue } from 'bullmq'
import t, { type Test } from 'tap'
import { leases } from '../../workers/options.ts'
import { all, ndjson } from '../e2e/modes.ts'
import { startGatewayProcess, submit, type GatewayProcess } from '../e2e/processes.ts'
import { spawnProcess, startRedis } from '../helper.ts'
import { startFollowers } from './followers.ts'
import { startLoad, type Event } from './load.ts'
import { settle, times } from './report.ts'

const job = { type: 'countdown', input: { from: 3, interval_ms: 20 } }

t.test('workers killed in mid job, one after another, lose no job', async (t) => {
  const redis = await startRedis(t)
  const gateway = await startGatewayProcess(t, { redis, roles: 'http,collect' })
  const queue = new Queue('countdown', { connection: redis.connect({ maxRetriesPerRequest: null }) })
  t.teardown(() => queue.close())
  const startWorkers = () => startGatewayProcess(t, { redis, roles: 'workers' })
  const workers = [await startWorkers(), await startWorkers()]
  const load = startLoad({ urls: [gateway.url], concurrency: 4, job })
  const kills: number[] = []
  while (kills.length < times(100, 6)) {
    // Both work, so the older one has jobs in hand.
    while ((await queue.getWorkersCount()) < 2) await delay(50)
    await load.whenAccepted(load.accepted.length + 40)
    const oldest = workers.shift()
    kills.push(Date.now())
    oldest?.child.kill('SIGKILL')
    await oldest?.exited
    workers.push(await startWorkers())
  }
  const recoveriesMs: number[] = []
  const lossesOfFailed: number[] = []
  const inspect = (events: readonly Event[]): void => {
    recoveriesMs.push(...recoveries(events, kills))
    const losses = events.filter(({ data }) => data.reason === 'the worker was lost').length
    if (events.at(-1)?.status === 'failed') lossesOfFailed.push(losses)
  }
  await settle(t, 'workers killed', load, { url: gateway.url, recoveriesMs, inspect })
  t.ok(recoveriesMs.length > 0, 'jobs were in hand when their worker was killed')
  // Beyond BullMQ's own bound: two timers, a round trip and a turn of two event loops, on a machine that is busy.
  const allowanceMs = 1_000
  const { lockDuration, stalledInterval, maxStalledCount } = leases
  t.ok(Math.max(...recoveriesMs) <= lockDuration + 2 * stalledInterval + allowanceMs, 'in time')
  t.ok(
    lossesOfFailed.every((losses) => losses > maxStalledCount),
    'only a job that was in hand at more kills than its workers allow has failed',
  )
})

t.test('a job that kills every worker fails, and the good ones around it are done', async (t) => {
  const { url, submitTo, startWorker } = await startDeadly(t, 2)
  const good = [await submitTo(false), await submitTo(false)]
  const deadly = await submitTo(true)
  good.push(await submitTo(false))
  const ending = all(ndjson(url, deadly, 0))
  let worker = startWorker()
  const ended = ending.then(() => 'ended' as const)
  for (;;) {
    if ((await Promise.race([ended, worker.exited])) === 'ended') break
    worker = startWorker()
  }
  const events = (await ending).map((text) => JSON.parse(text) as Event)
  t.match(events.at(-1), {
    type: 'job.failed',
    data: { error: { code: 'step_failed', detail: /kills its workers/ } },
  })
  t.equal(events.filter(({ type }) => type === 'step.retrying').length, 3, 'as often as its workers allow')
  for (const id of good) t.match((await all(ndjson(url, id, 0))).at(-1), /job.completed/)
})

t.test('so it does when the last worker is dead for good', async (t) => {
  const { url, submitTo, startWorker } = await startDeadly(t, 1)
  const good = [await submitTo(false)]
  const deadly = await submitTo(true)
  for (const _ of [1, 2]) await startWorker().exited
  const since = Date.now()
  good.push(await submitTo(false))
  const last = (await all(ndjson(url, deadly, 0))).at(-1) ?? ''
  t.comment(
    `a job that killed the last of its workers: failed ${Math.round((Date.now() - since) / 1_000)} s later`,
  )
  t.match(JSON.parse(last), {
    type: 'job.failed',
    data: { error: { code: 'step_failed', detail: /kills its workers/, attempts: 2 } },
  })
  const worker = startWorker()
  for (const id of good) t.match((await all(ndjson(url, id, 0))).at(-1), /job.completed/)
  t.equal(worker.child.exitCode, null, 'and the next worker never gets it')
})

t.test('gateways killed, one after another, lose no job and no event of a stream', async (t) => {
  const redis = await startRedis(t)
  const gateway = await startGatewayProcess(t, { redis, roles: 'http,collect,workers' })
  let second: GatewayProcess = await startGatewayProcess(t, { redis, roles: 'http,collect' })
  const urls = [gateway.url, second.url]
  const load = startLoad({ urls, concurrency: 16, job })
  // Long enough to be under way at a kill.
  const followers = startFollowers(urls, 10, { type: 'countdown', input: { from: 30, interval_ms: 50 } })
  for (let kill = 1; kill <= times(20, 3); kill++) {
    await load.whenAccepted(load.accepted.length + 300)
    second.child.kill('SIGKILL')
    await second.exited
    second = await startGatewayProcess(t, { redis, roles: 'http,collect' })
    urls[1] = second.url
  }
  await followers.stop()
  const { followed, resumed, wrong } = followers
  const resumptions = Object.entries(resumed).map(([mode, many]) => `${many} ${mode}`)
  t.comment(`gateways killed: ${followed.length} streams followed, resumed: ${resumptions.join(', ')}`)
  t.same(Object.keys(resumed).toSorted(), ['ndjson', 'sse', 'websocket'], 'streams of every mode were cut')
  t.same(wrong, [], 'every client saw its journal, without gap or repeat')
  await settle(t, 'gateways killed', load, { url: gateway.url })
})

t.test('a Redis killed under load, and started again with its append-only file, loses no job', async (t) => {
  const redis = await startRedis(t)
  const gateway = await startGatewayProcess(t, { redis })
  const load = startLoad({ urls: [gateway.url], concurrency: 16, job })
  const recoveriesMs: number[] = []
  for (let kill = 1; kill <= times(10, 2); kill++) {
    await load.whenAccepted(load.accepted.length + 300)
    await redis.stop()
    await delay(500)
    await redis.start()
    const since = Date.now()
    await load.whenAccepted(load.accepted.length + 1)
    recoveriesMs.push(Date.now() - since)
  }
  await settle(t, 'Redis killed', load, { url: gateway.url, recoveriesMs })
})

/** From each kill that cost a job its worker to the start of the job's next attempt, in milliseconds. */
function recoveries(events: readonly Event[], kills: readonly number[]): number[] {
  const starts: number[] = []
  const found: number[] = []
  for (const [index, { type, timestamp, data }] of events.entries()) {
    const next = events.slice(index).find((event) => event.type === 'step.started')
    if (type === 'step.started') starts.push(Date.parse(timestamp))
    if (type !== 'step.retrying' || data.reason !== 'the worker was lost' || !next) continue
    // An attempt takes far less time than lies between two kills, so the first after its start was its worker's.
    const kill = kills.find((at) => at >= (starts.at(-1) ?? 0))
    if (kill !== undefined) found.push(Date.parse(next.timestamp) - kill)
  }
  return found
}

/** A gateway for jobs some of which kill the worker that has them, and workers that allow so many losses. */
async function startDeadly(t: Test, maxStalledCount: number) {
  const redis = await startRedis(t)
  const types = { deadly: { steps: ['deadly'] } }
  const { url } = await startGatewayProcess(t, { redis, types, roles: 'http,collect' })
  return {
    url,
    submitTo: (deadly: boolean) => submit(url, { type: 'deadly', input: { deadly } }),
    startWorker: () =>
      spawnProcess(t, ['node', 'test/faults/deadly-worker.mjs'], {
        env: { REDIS_PORT: String(redis.port), MAX_STALLED_COUNT: String(maxStalledCount) },
      }),
  }
}
