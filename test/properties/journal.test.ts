import { deepStrictEqual, equal } from 'node:assert'
import { once } from 'node:events'
import * as fc from 'fast-check'
import { pino } from 'pino'
import t from 'tap'
import { v7 as uuidv7 } from 'uuid'
import { append } from '../../src/append.ts'
import { createFollow } from '../../src/follow.ts'
import { createConnect } from '../../src/store/redis/connect.ts'
import { createRedisStore } from '../../src/store/redis/redis-store.ts'
import { startRedis } from '../helper.ts'
import { all, move, newJob } from '../store-contract/jobs.ts'
import { collectAll, output, outputsOf, scheduled } from './collectors.ts'
import { callback, commands, jobsOf, JOBS, SOURCES, type Node, type Run } from './commands.ts'
import { isEnded } from './model.ts'
import { faultOf, record } from './recorder.ts'
import { runs } from './runs.ts'

const redis = await startRedis(t)
const nodes = [await openNode(), await openNode()] as const

t.test('whatever is done in whatever order, the store holds what a model of it holds', async (t) => {
  const limits = fc.array(fc.integer({ min: 1, max: 8 }), { minLength: JOBS, maxLength: JOBS })
  const callbacks = fc.array(fc.option(callback), { minLength: JOBS, maxLength: JOBS })
  await fc.assert(
    fc.asyncProperty(limits, callbacks, commands, async (limits, callbacks, commands) => {
      const run: Run = {
        model: { jobs: new Map(), cursors: new Map() },
        nodes,
        jobs: jobsOf(limits, callbacks),
        sources: Array.from({ length: SOURCES }, () => uuidv7()),
        batches: [],
        recorders: [],
        claims: [],
        positions: 0,
        turns: 0,
      }
      try {
        await fc.asyncModelRun(() => ({ model: run, real: nodes[0] }), commands)
        await judgeFollowers(run)
      } finally {
        for (const recorder of run.recorders) recorder.stop()
      }
    }),
    runs(100),
  )
  t.pass()
})

t.test('two that collect one source in any interleaving apply each entry once, in order', async (t) => {
  const entries = fc.array(fc.nat({ max: 2 }), { minLength: 1, maxLength: 20 })
  const sizes = fc.infiniteStream(fc.integer({ min: 1, max: 5 }))
  const beliefs = fc.infiniteStream(fc.constantFrom('own', 'own', 'old', 'cursor'))
  await fc.assert(
    fc.asyncProperty(fc.scheduler(), entries, sizes, beliefs, async (scheduler, entries, sizes, beliefs) => {
      const jobs = [newJob(), newJob(), newJob()]
      const ids = jobs.map(({ record }) => record.id)
      for (const job of jobs) await nodes[0].store.accept(job)
      const source = uuidv7()
      const log = entries.map((job, n) => ({ id: ids[job] ?? '', outcome: output(n) }))
      const stores = nodes.map(({ store }) => scheduled(scheduler, store))
      const collectors = stores.map((store) => collectAll({ store, source, ids, log, sizes, beliefs }))
      /** The gateway itself changes the jobs in between. */
      const meddler = async () => {
        const parts = { store: at(stores, 1), followUps: async () => undefined }
        for (const { id } of log)
          await append(parts, id, () => ({ kind: 'end_requested', ending: 'expired' }), 0)
      }
      await scheduler.waitFor(Promise.all([...collectors, meddler()]))
      equal(await nodes[0].store.cursor(source), `${entries.length}`)
      for (const [index, job] of jobs.entries()) {
        const told = entries.flatMap((each, n) => (each === index ? [n] : []))
        deepStrictEqual(outputsOf(await all(nodes[0].store, job)), told)
      }
    }),
    runs(100),
  )
  t.pass()
})

t.test('what two nodes append at once is all there, and whoever follows from anywhere has it', async (t) => {
  const bursts = fc.array(fc.array(fc.nat({ max: 1 }), { maxLength: 6 }), { minLength: 1, maxLength: 6 })
  const cursors = fc.infiniteStream(fc.nat({ max: 40 }))
  await fc.assert(
    fc.asyncProperty(bursts, cursors, async (bursts, cursors) => {
      const job = newJob()
      const { id } = job.record
      await nodes[0].store.accept(job)
      const recorders = [record(nodes[0].follow, id, 0)]
      let length = 1
      for (const burst of bursts) {
        const appends = burst.map(async (node, n) => {
          const parts = { store: at(nodes, node).store, followUps: async () => undefined }
          await append(parts, id, () => output(length - 1 + n))
        })
        recorders.push(record(at(nodes, length).follow, id, (cursors.next().value ?? 0) % (length + 1), 2))
        await Promise.all(appends)
        length += burst.length
      }
      await move(nodes[1].store, job, { kind: 'completed', queue: 'a', result: '1' })
      await Promise.all(recorders.map(({ ended }) => ended))
      const journal = await all(nodes[0].store, job)
      deepStrictEqual(
        journal.map(({ seq }) => seq),
        Array.from({ length: length + 1 }, (_, index) => index + 1),
      )
      deepStrictEqual(outputsOf(journal).toSorted(ascending), [...Array(length - 1).keys()])
      for (const { after, events } of recorders) deepStrictEqual(events, journal.slice(after))
    }),
    runs(100),
  )
  t.pass()
})

/** Ends all jobs that are followed, and waits until their followers have heard of it. */
async function judgeFollowers({ model, jobs, recorders }: Run): Promise<void> {
  for (const job of jobs) {
    const known = model.jobs.get(job.record.id)
    const followers = recorders.filter(({ id }) => id === job.record.id)
    if (!known || followers.length === 0) continue
    const wasEnded = isEnded(known)
    const unseen = followers.filter(({ after }) => !wasEnded || after < known.events.length)
    if (!wasEnded) await move(nodes[0].store, job, { kind: 'ended', ending: 'expired' })
    const last = (await all(nodes[0].store, job)).at(-1)?.text ?? ''
    const journal = wasEnded ? known.events : [...known.events, last]
    await Promise.all(unseen.map(({ ended }) => ended))
    for (const each of followers) equal(faultOf(each, journal, job.record.journalLimit), null)
  }
}

async function openNode(): Promise<Node> {
  const connect = createConnect(redis.url, () => undefined)
  const client = connect('command')
  await once(client, 'ready')
  const store = createRedisStore(client, connect)
  t.teardown(async () => {
    await store.close()
    client.disconnect()
  })
  return { store, follow: createFollow({ store, log: pino({ level: 'silent' }) }) }
}

function at<T>(from: readonly T[], n: number): T {
  return from[n % from.length] as T
}

function ascending(a: number, b: number): number {
  return a - b
}
