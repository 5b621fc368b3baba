import { EventEmitter, once } from 'node:events'
import type { Test } from 'tap'
import { v7 as uuidv7 } from 'uuid'
import { advance, changeOf, draftOf, type Outcome } from '../../src/advance.ts'
import { eventText, jobText } from '../../src/job.ts'
import type { JobEvent, JobRecord } from '../../src/messages.ts'
import type { Change, Listener, NewJob, Store } from '../../src/store/store.ts'

/** Opens the store, closed when the test ends. Whatever is opened has the same data, as two nodes of a gateway have. */
export type OpenStore = (t: Test, options?: StoreOptions) => Promise<Store>

export interface StoreOptions {
  /** Tries of one origin that may be under way. */
  readonly perOrigin?: number
  /** How long a delivery waits for an origin whose circuit is open. */
  readonly patienceMs?: number
  /** How long a circuit that opens stays open, the first time and each further time in a row. */
  readonly circuitWaitsMs?: readonly number[]
}

/** A job of one step, the queue `a`, as it comes from the client. */
export function newJob(fields: Partial<JobRecord> = {}, more: Partial<NewJob> = {}): NewJob {
  const now = Date.now()
  const record: JobRecord = {
    id: uuidv7(),
    tenant: 'tenant',
    type: 'test',
    route: ['a'],
    status: 'queued',
    step: 0,
    attempt: 0,
    active: false,
    ending: null,
    progress: null,
    error: null,
    seq: 1,
    metadata: {},
    priority: 0,
    createdAt: now,
    notBefore: now,
    startedAt: null,
    updatedAt: now,
    finishedAt: null,
    expiresAt: null,
    deadlineAt: now + 600_000,
    retentionMs: 86_400_000,
    journalLimit: 10_000,
    ...fields,
  }
  const event = eventText(record, 'job.queued', jobText(record))
  return {
    record,
    event,
    input: '{"from":1}',
    callback: null,
    idempotency: null,
    maxWaiting: 1_000_000,
    maxWaitingPerTenant: null,
    ...more,
  }
}

/** Lets something happen to a job, whatever else happens to it meanwhile. */
export async function move(store: Store, job: NewJob, ...outcomes: Outcome[]): Promise<void> {
  for (let status = ''; status !== 'applied';) {
    const applied = await store.apply(null, await changesOf(store, [job], ...outcomes))
    status = applied.status
  }
}

/** The whole journal that is there. */
export async function all(store: Store, { record: { id } }: NewJob): Promise<JobEvent[]> {
  const events: JobEvent[] = []
  for (let more = true; more;) {
    const page = await store.read(id, events.at(-1)?.seq ?? 0, 1_000)
    events.push(...(page?.events ?? []))
    more = page?.more ?? false
  }
  return events
}

/** Numbers from 0 to 1, the same ones for the same seed (Mulberry32). */
export function randomOf(seed: number): () => number {
  let state = seed
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4_294_967_296
  }
}

export function pick<T>(random: () => number, from: readonly T[]): T {
  return from[Math.floor(random() * from.length)] as T
}

export const toTheEnd = [
  { kind: 'completed', queue: 'a', result: '{}' },
] as const satisfies readonly Outcome[]

export function keyed(key: string, fingerprint = 'the body'): NonNullable<NewJob['idempotency']> {
  return { key, fingerprint: Buffer.from(fingerprint).toString('base64url'), keepMs: 86_400_000 }
}

export async function acceptMany(
  store: Store,
  count: number,
  fields: Partial<JobRecord> = {},
): Promise<NewJob[]> {
  const jobs = Array.from({ length: count }, () => newJob(fields))
  // No more at once than a busy machine answers before a command counts as lost.
  for (let at = 0; at < count; at += 250)
    await Promise.all(jobs.slice(at, at + 250).map((job) => store.accept(job)))
  return jobs
}

/** A job whose journal has this many events. */
export async function withEvents(
  store: Store,
  count: number,
  fields: Partial<JobRecord> = {},
): Promise<NewJob> {
  const job = newJob(fields)
  await store.accept(job)
  for (let seq = 2; seq <= count; seq++)
    await move(store, job, { kind: 'progress', queue: 'a', data: `${seq}` })
  return job
}

export async function changesOf(
  store: Store,
  jobs: readonly NewJob[],
  ...outcomes: Outcome[]
): Promise<Change[]> {
  const stored = await store.load(idsOf(jobs))
  return stored.flatMap((job) => {
    if (!job) return []
    const draft = draftOf(job)
    for (const outcome of outcomes) advance(draft, outcome, Date.now())
    return [changeOf(draft)]
  })
}

export async function changesTold(
  store: Store,
  told: readonly { id: string; n: number }[],
): Promise<Change[]> {
  const stored = await store.load([...new Set(told.map(({ id }) => id))])
  return stored.flatMap((job) => {
    if (!job) return []
    const draft = draftOf(job)
    for (const { id, n } of told) {
      if (id === job.record.id) advance(draft, { kind: 'progress', queue: 'a', data: `{"output":${n}}` }, 0)
    }
    return [changeOf(draft)]
  })
}

export async function texts(store: Store, job: NewJob): Promise<string[]> {
  return (await all(store, job)).map(({ text }) => text)
}

export async function listed(
  store: Store,
  tenant: string,
  filter: Parameters<Store['list']>[1],
  limit: number,
): Promise<string[]> {
  const ids: string[] = []
  for (let after: string | null = null; ;) {
    const page = await store.list(tenant, filter, { limit, after })
    ids.push(...page.jobs.map(({ record }) => record.id))
    after = page.next
    if (after === null) return ids
  }
}

export function idsOf(jobs: readonly NewJob[]): string[] {
  return jobs.map(({ record }) => record.id)
}

export function own(named: readonly string[], ids: readonly string[]): string[] {
  return named.filter((id) => ids.includes(id))
}

/** A listener that keeps what it hears. */
export interface Heard extends Listener {
  readonly heard: readonly JobEvent[]
  /** All that was heard, once one such event was. */
  until(isEnough: (event: JobEvent) => boolean): Promise<readonly JobEvent[]>
  /** Resolves at the next (or, with `count`, a further) interruption. */
  interruption(count?: number): Promise<void>
}

export function listen(): Heard {
  const heard: JobEvent[] = []
  const emitter = new EventEmitter().setMaxListeners(0)
  const interruptions: true[] = []
  return {
    heard,
    events(events) {
      heard.push(...events)
      emitter.emit('change')
    },
    interrupted() {
      interruptions.push(true)
      emitter.emit('change')
    },
    async until(isEnough) {
      while (!heard.some(isEnough)) await once(emitter, 'change')
      return heard
    },
    async interruption(count = 1) {
      while (interruptions.length < count) await once(emitter, 'change')
    },
  }
}
