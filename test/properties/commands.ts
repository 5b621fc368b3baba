import { deepStrictEqual } from 'node:assert'
import * as fc from 'fast-check'
import type { Outcome } from '../../src/advance.ts'
import type { Follow } from '../../src/follow.ts'
import { dataOf, jobText } from '../../src/job.ts'
import type { Callback, Claim } from '../../src/store/deliveries.ts'
import type { Change, Fence, NewJob, Store } from '../../src/store/store.ts'
import { delivered } from '../store-contract/deliver.ts'
import { newJob } from '../store-contract/jobs.ts'
import * as model from './model.ts'
import { record, type Recorder } from './recorder.ts'

/** One run: two nodes on one store, the jobs that it may accept, and what it has computed but not yet sent. */
export interface Run {
  readonly model: model.Model
  readonly nodes: readonly [Node, Node]
  readonly jobs: readonly NewJob[]
  readonly sources: readonly string[]
  readonly batches: { readonly fence: Fence | null; readonly changes: readonly Change[] }[]
  readonly recorders: Recorder[]
  readonly claims: Claim[]
  positions: number
  turns: number
}

export interface Node {
  readonly store: Store
  readonly follow: Follow
}

export const JOBS = 4
export const SOURCES = 2

/** Journals are short enough here that they are trimmed. */
export function jobsOf(limits: readonly number[], callbacks: readonly (Callback | null)[]): NewJob[] {
  return limits.map((journalLimit, index) =>
    newJob({ tenant: 'properties', journalLimit }, { callback: callbacks[index] ?? null }),
  )
}

const queue = 'a'
export const outcome: fc.Arbitrary<Outcome> = fc.oneof(
  { weight: 4, arbitrary: fc.constant<Outcome>({ kind: 'started', queue }) },
  {
    weight: 8,
    arbitrary: fc.json({ maxDepth: 1 }).map((data): Outcome => ({ kind: 'progress', queue, data })),
  },
  { weight: 4, arbitrary: fc.constant<Outcome>({ kind: 'retrying', queue, reason: 'no luck', delayMs: 5 }) },
  { weight: 2, arbitrary: fc.constant<Outcome>({ kind: 'end_requested', ending: 'canceled' }) },
  { weight: 1, arbitrary: fc.constant<Outcome>({ kind: 'canceling' }) },
  { weight: 1, arbitrary: fc.json().map((result): Outcome => ({ kind: 'completed', queue, result })) },
  { weight: 1, arbitrary: fc.string().map((reason): Outcome => ({ kind: 'failed', queue, reason })) },
)

export const callback: fc.Arbitrary<Callback> = fc.record({
  url: fc.constant('http://receiver'),
  events: fc.constantFrom(null, ['*'], ['job.progress'], ['step.started', 'job.completed']),
})

type Command = fc.AsyncCommand<Run, Node>
type Step = (run: Run, node: Node) => Promise<void>

const index = fc.nat({ max: 1_000 })
const told = fc.array(fc.record({ job: index, outcome }), { minLength: 1, maxLength: 6 })

export const commands: fc.Arbitrary<Iterable<Command>> = fc.commands(
  [
    index.map((n) =>
      step(`accept ${n % JOBS}`, async (run, { store }) => {
        const job = at(run.jobs, n)
        deepStrictEqual(await store.accept(job), { status: 'accepted' })
        model.accept(run.model, job)
      }),
    ),
    // A batch that is read now may be sent at any later time, any number of times, and so may its beginning.
    fc.tuple(index, told, index).map(([source, told, cut]) =>
      step(`read batch ${source % SOURCES} ${JSON.stringify(told)} cut ${cut % told.length}`, async (run) => {
        const from = run.model.cursors.get(at(run.sources, source)) ?? null
        for (const part of [told, told.slice(0, cut % told.length)]) {
          const fence = { source: at(run.sources, source), from, to: `${++run.positions}-0` }
          run.batches.push({ fence, changes: changesOf(run, part) })
        }
      }),
    ),
    fc.tuple(index, outcome).map(([n, outcome]) =>
      step(`decide ${n % JOBS} ${outcome.kind}`, async (run) => {
        run.batches.push({ fence: null, changes: changesOf(run, [{ job: n, outcome }]) })
      }),
    ),
    fc.tuple(index, told).map(([source, told]) =>
      step(`collect ${source % SOURCES} ${JSON.stringify(told)}`, async (run, node) => {
        const from = run.model.cursors.get(at(run.sources, source)) ?? null
        const fence = { source: at(run.sources, source), from, to: `${++run.positions}-0` }
        run.batches.push({ fence, changes: changesOf(run, told) })
        await send(run, node, run.batches.length - 1)
      }),
    ),
    sending('send', index),
    sending('send the latest', fc.constant(-1)),
    fc.tuple(index, index, fc.integer({ min: 1, max: 5 })).map(([n, after, limit]) =>
      step(`read ${n % JOBS} after ${after} limit ${limit}`, async (run, { store }) => {
        const { record } = at(run.jobs, n)
        const known = run.model.jobs.get(record.id)
        const cursor = after % ((known?.events.length ?? 0) + 2)
        const page = await store.read(record.id, cursor, limit)
        deepStrictEqual(page, known ? model.read(known, cursor, limit) : null)
      }),
    ),
    fc.tuple(index, index, fc.integer({ min: 1, max: 4 })).map(([n, after, room]) =>
      step(`follow ${n % JOBS} after ${after} room ${room}`, async (run, { follow }) => {
        const known = run.model.jobs.get(at(run.jobs, n).record.id)
        if (!known) return
        run.recorders.push(record(follow, known.record.id, after % (known.events.length + 1), room))
      }),
    ),
    fc.tuple(index, index, callback).map(([n, after, callback]) =>
      step(`return address ${n % JOBS} ${callback.events?.join()} after ${after}`, async (run, { store }) => {
        const { id } = at(run.jobs, n).record
        const known = run.model.jobs.get(id)
        const cursor = after % ((known?.events.length ?? 0) + 1)
        deepStrictEqual(await store.deliveries.setCallback(id, callback, cursor), known !== undefined)
        if (known) model.setCallback(known, callback, cursor)
      }),
    ),
    index.map((n) =>
      step(`hand over ${n % JOBS}`, async (run, { store }) => {
        const { id } = at(run.jobs, n).record
        await store.deliveries.handOver(id)
        const known = run.model.jobs.get(id)
        if (known?.callback) model.handOver(known)
      }),
    ),
    fc.constantFrom('claim', 'claim and forget').map((how) =>
      step(how, async (run, { store }) => {
        const { claims } = await store.deliveries.claim(JOBS, how === 'claim' ? 60_000 : 1)
        for (const claim of claims) {
          // What an earlier run left behind has no place in this one.
          const known = run.model.jobs.get(claim.id)
          if (!known) continue
          const { seq, generation } = claim
          const expected = model.claimable(known)
          deepStrictEqual(expected.includes(seq), true, `${seq} is not of ${expected.join()}`)
          deepStrictEqual(generation, known.generation)
          known.pending = { seq, generation, open: false }
          run.claims.push(claim)
        }
      }),
    ),
    // Any number of times, also when the return address was changed meanwhile.
    index.map((n) =>
      step(`settle ${n} of the claims`, async (run, { store }) => {
        const claim = run.claims[n % Math.max(1, run.claims.length)]
        if (!claim) return
        await store.deliveries.settle(claim, delivered)
        const known = run.model.jobs.get(claim.id)
        const isCurrent = known && run.claims.findLast(({ id }) => id === claim.id) === claim
        if (isCurrent && known.pending?.generation === claim.generation) model.settle(known, claim)
      }),
    ),
    // Whoever follows a job that goes is told so only when it reads again.
    index.map((n) =>
      step(`forget or withdraw ${n % JOBS}`, async (run, { store }) => {
        const { record } = at(run.jobs, n)
        const { id, tenant } = record
        const known = run.model.jobs.get(id)
        if ([...run.recorders, ...run.claims].some((each) => each.id === id)) return
        const goes = known && (model.isEnded(known) || known.version === 1)
        if (known && model.isEnded(known)) await store.forget(tenant, id)
        else await store.withdraw(record)
        if (goes) run.model.jobs.delete(id)
      }),
    ),
  ],
  { size: 'max', maxCommands: 60 },
)

function sending(name: string, which: fc.Arbitrary<number>): fc.Arbitrary<Command> {
  return which.map((n) => step(`${name} ${n}`, (run, node) => send(run, node, n)))
}

/** Sends what was computed before, whether the store has moved on since or not; the latest for -1. */
async function send({ model: expected, batches }: Run, { store }: Node, n: number): Promise<void> {
  const batch = n < 0 ? batches.at(n) : batches[n % batches.length]
  if (!batch) return
  const applied = await store.apply(batch.fence, batch.changes)
  deepStrictEqual(applied, model.apply(expected, batch.fence, batch.changes))
}

/** A step is taken on one node, and seen on both. */
function step(name: string, run: Step): Command {
  return {
    check: () => true,
    toString: () => name,
    async run(state) {
      await run(state, at(state.nodes, state.turns++))
      await compare(state)
    },
  }
}

/** Whether the store holds what the model holds, nothing more and nothing less. */
async function compare({ model: expected, nodes, jobs, sources, turns }: Run): Promise<void> {
  const { store } = at(nodes, turns)
  const ids = jobs.map(({ record }) => record.id)
  const known = ids.map((id) => expected.jobs.get(id) ?? null)
  const [stored, pages, views, cursors] = await Promise.all([
    store.load(ids),
    Promise.all(ids.map((id) => store.read(id, 0, 1_000))),
    Promise.all(ids.map((id) => store.get('properties', id))),
    Promise.all(sources.map((source) => store.cursor(source))),
  ])
  deepStrictEqual(
    stored,
    known.map((job) => job && { record: job.record, version: job.version, input: job.input }),
  )
  deepStrictEqual(
    pages,
    known.map((job) => job && model.read(job, 0, 1_000)),
  )
  deepStrictEqual(
    views,
    known.map((job) => job && { record: job.record, text: textOf(job) }),
  )
  deepStrictEqual(
    cursors,
    sources.map((source) => expected.cursors.get(source) ?? null),
  )
}

function textOf(job: model.ModelJob): string {
  return model.isEnded(job) ? dataOf(job.events.at(-1) ?? '') : jobText(job.record)
}

function changesOf(run: Run, told: readonly { job: number; outcome: Outcome }[]): Change[] {
  const named = told.map(({ job, outcome }) => ({ id: at(run.jobs, job).record.id, outcome }))
  return model.changesOf(run.model, named)
}

function at<T>(from: readonly T[], n: number): T {
  return from[n % from.length] as T
}
