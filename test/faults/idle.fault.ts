import { setTimeout as delay } from 'node:timers/promises'
import { Worker } from 'bullmq'
import t from 'tap'
import { startGatewayProcess, submit } from '../e2e/processes.ts'
import { spawnProcess, startRedis } from '../helper.ts'
import { descriptorsOf, kib, memoryOf, reportsMemory } from './process-figures.ts'
import { isWhole, times } from './report.ts'

const types = { held: { steps: ['held'] }, other: { steps: ['other'] } }
const count = times(10_000, 1_000)
/** Of memory that is in use, for one connection. */
const MOST_BYTES = 20_480

for (const mode of ['sse', 'websocket']) {
  t.test(`${count} idle connections (${mode}) cost little, and each hears the end of its job`, async (t) => {
    const redis = await startRedis(t)
    const gateway = await startGatewayProcess(t, { redis, types, roles: 'http,collect', env: reportsMemory })
    const id = await submit(gateway.url, { type: 'held' })
    const descriptors = descriptorsOf(gateway)
    const before = await memoryOf(gateway)
    const program = ['node', '--import', 'tsx', 'test/faults/idle-clients.ts']
    const clients = spawnProcess(t, program.concat(mode, gateway.url, id, String(count)))
    await clients.waitForLine(new RegExp(`^open ${count}$`), 120_000)
    t.ok(descriptorsOf(gateway) >= descriptors + count)
    // Long enough for two heartbeats.
    if (isWhole) await delay(35_000)
    const open = await memoryOf(gateway)

    const connection = () => redis.connect({ maxRetriesPerRequest: null })
    const work = (queue: string) => {
      const worker = new Worker(queue, async () => 'done', { connection: connection() })
      t.teardown(() => worker.close(true))
    }
    work('other')
    const since = Date.now()
    const answer = await fetch(`${gateway.url}/jobs`, {
      method: 'POST',
      headers: { 'content-type': 'application/json', prefer: 'wait=30' },
      body: JSON.stringify({ type: 'other' }),
    })
    const otherMs = Date.now() - since
    t.equal(answer.status, 200, 'another client is served meanwhile')
    work('held')
    const [, ended] = await clients.waitForLine(/^ended (\d+)$/, 60_000)
    t.equal(Number(ended), count, 'nobody was lost')
    while (descriptorsOf(gateway) > descriptors + 10) await delay(50)
    const after = await memoryOf(gateway)

    const each = (open.used - before.used) / count
    t.comment(
      `idle ${mode}: ${count} open, ${ended} ended · ${kib(each)} each (RSS ${kib((open.rss - before.rss) / count)}) · ` +
        `${kib((after.used - before.used) / count)} each left · another job took ${otherMs} ms meanwhile`,
    )
    t.ok(each < MOST_BYTES)
    t.ok(after.used - before.used < (open.used - before.used) / 4, 'and all of it is given back')
  })
}
