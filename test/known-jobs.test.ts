import { setTimeout as delay } from 'node:timers/promises'
import t from 'tap'
import { createKnownJobs } from '../src/known-jobs.ts'
import type { Stored } from '../src/store/store.ts'
import { startGateway } from './gateway.ts'
import { newJob } from './store-contract/jobs.ts'

t.test(
  'what is known is bounded: the oldest stay, until nothing has happened to them for a minute',
  async (t) => {
    let now = 0
    const known = createKnownJobs(() => now)
    const jobs = Array.from({ length: 10_002 }, (): Stored => ({
      record: newJob().record,
      version: 1,
      input: null,
    }))
    for (const job of jobs.slice(0, 10_001)) known.put(job)
    t.ok(known.get(jobs[0]!.record.id))
    t.notOk(known.get(jobs[10_000]!.record.id))
    now = 60_000
    known.put(jobs[10_001]!)
    t.notOk(known.get(jobs[0]!.record.id))
    t.ok(known.get(jobs[10_001]!.record.id))
    known.drop(jobs[10_001]!.record.id)
    t.notOk(known.get(jobs[10_001]!.record.id))
  },
)

t.test('what another node has done to a job since this one wrote it last is not overlooked', async (t) => {
  const types = { chain: { steps: ['one', 'two', 'three'], attempts: 1 } }
  const here = await startGateway(t, types)
  // Two nodes share the three queues out, so that the job goes to and fro between them.
  const there = await startGateway(t, types, { redis: here.redis })
  for (const queue of ['one', 'two', 'three']) {
    await here.work(queue, async (job) => {
      await job.updateProgress({ output: queue })
      return [...(job.data as string[]), queue]
    })
  }
  for (const { url } of [here, there]) while ((await collectedBy(url)) === 0) await delay(50)
  const answers = await Promise.all(
    Array.from({ length: 50 }, () => here.post({ type: 'chain', input: [] }, { prefer: 'wait=20' })),
  )
  for (const answer of answers) {
    const { status, result, seq } = (await answer.json()) as { status: string; result: unknown; seq: number }
    t.strictSame({ status, result, seq }, { status: 'completed', result: ['one', 'two', 'three'], seq: 10 })
  }
})

/** How many queues a node collects from. */
async function collectedBy(url: string): Promise<number> {
  const metrics = await (await fetch(`${url}/metrics`)).text()
  return metrics.match(/^quartet_collecting\{.*\} 1$/gm)?.length ?? 0
}
