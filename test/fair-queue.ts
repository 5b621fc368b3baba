import { once } from 'node:events'
import { Queue, Worker, type Job } from 'bullmq'
import type { Test } from 'tap'
import { parseCatalog } from '../src/catalog.ts'
import type { JobRecord } from '../src/messages.ts'
import { createQueues } from '../src/queues.ts'
import { createConnect } from '../src/store/redis/connect.ts'
import { createRedisStore } from '../src/store/redis/redis-store.ts'
import type { NewJob } from '../src/store/store.ts'
import { startRedis, type TestRedis } from './helper.ts'
import { newJob } from './store-contract/jobs.ts'

const typesOf = (fair: boolean) => ({
  test: { steps: [{ queue: 'a', attempts: 100, backoff_ms: 0 }], fair },
})

/** So many jobs of a tenant, in the order in which they are to come. */
export function jobsOf(tenant: string, count: number, fields: Partial<JobRecord> = {}): NewJob[] {
  const jobs = Array.from({ length: count }, () => newJob({ tenant, ...fields }))
  for (const { record } of jobs) tenants.set(record.id, tenant)
  return jobs
}

/** Whose jobs are whose. */
const tenants = new Map<string, string>()

/**
 * A node of a gateway that has no HTTP, its store and its queues, with a worker of the fair queue `a`.
 *
 * @param known a shared one makes this another node
 * @param isFair false: a node for which tenants do not take turns
 */
export async function openFairQueue(t: Test, known?: TestRedis, isFair = true) {
  const redis = known ?? (await startRedis(t))
  const connect = createConnect(redis.url, () => undefined)
  const command = connect('command')
  await once(command, 'ready')
  const store = createRedisStore(command, connect)
  const queues = createQueues(command, 'bull', parseCatalog({ types: typesOf(isFair) }), store.now)
  const worker = new Worker('a', null, { connection: redis.connect({ maxRetriesPerRequest: null }) })
  worker.on('error', () => undefined)
  t.teardown(async () => {
    await worker.close(true)
    await queues.close()
    await store.close()
    command.disconnect()
  })
  const client = redis.connect()
  const bull = new Queue('a', { connection: client, skipVersionCheck: true })
  return { redis, client, bull, queues, intake, enqueue, comeDue, work: workByHand(worker) }

  /** All at once, stored and enqueued in one step. */
  async function intake(...jobs: NewJob[]): Promise<void> {
    const answers = await Promise.all(
      jobs.map((job) => {
        const addition = queues.additionOf(job.record)
        if (!addition) throw new Error('Expected a job that can be taken in at once')
        return store.intake(job, addition)
      }),
    )
    for (const { status } of answers)
      if (status !== 'accepted') throw new Error(`Expected accepted, got ${status}`)
  }

  /** One after the other, stored first and enqueued second. */
  async function enqueue(...jobs: NewJob[]): Promise<void> {
    for (const job of jobs) {
      await store.accept(job)
      await queues.enqueue(job.record, job.input)
    }
  }

  /** What was enqueued with a delay is due now, as BullMQ tells the collector. */
  async function comeDue(...jobs: NewJob[]): Promise<void> {
    for (const { record } of jobs) await (await bull.getJob(record.id))?.promote()
    await Promise.all(jobs.map(({ record }) => queues.takeTurn(record)))
  }
}

/** A worker that takes jobs when it is told to, and holds them. */
function workByHand(worker: Worker) {
  const started: string[] = []
  const held: Job[] = []
  return {
    /** The ids of the jobs that were started, in that order. */
    started,
    /** Starts so many. @returns whose they are */
    async start(count: number): Promise<string[]> {
      for (let n = 0; n < count; n++) {
        const job = await worker.getNextJob('token', { block: false })
        if (!job?.id) throw new Error(`Expected ${count} jobs, got ${n}`)
        held.push(job)
        started.push(job.id)
      }
      return started.slice(-count).map((id) => tenants.get(id) ?? '')
    },
    /** Fails the nth of those that are held: it is tried again at once. @returns its id */
    async fail(n: number): Promise<string> {
      const [job] = held.splice(n, 1)
      if (!job?.id) throw new Error(`Expected ${n} jobs to be held`)
      await job.moveToFailed(new Error('try again'), 'token', false)
      return job.id
    },
    /** How many are held. */
    held: () => held.length,
    /** Ends all that are held. @returns how many */
    async finish(): Promise<number> {
      const jobs = held.splice(0)
      for (const job of jobs) await job.moveToCompleted('done', 'token', false)
      return jobs.length
    },
  }
}
