import type { Accepted, NewJob } from '../store.ts'
import { bullmqScript, inOrder, inTurns, type Addition } from './bullmq.ts'
import { packEvent, packRecord } from './compact.ts'
import type { Client } from './connect.ts'
import { dueOf } from './due.ts'
import { filterOf, originOf, type Keys } from './keys.ts'
import type { createFollow } from './follow.ts'
import type { Replicate } from './replicate.ts'
import { defineScript } from './scripts.ts'

/**
 * Jobs that one call takes in, and about how much text: Redis serves nobody else meanwhile, and while it is at the first of
 * a crowd this process is at the next ones.
 */
const MAX_JOBS = 16
const MAX_CHARACTERS = 262_144
/** How long what comes while a call is under way waits for its end: more in one call is less to do. */
const GATHER_MS = 4

/** Takes a job in and puts it into its first queue, both or nothing, in one atomic step. */
export type Intake = (job: NewJob, addition: Addition) => Promise<Accepted>

export interface IntakeParts {
  readonly redis: Client
  readonly keys: Keys
  readonly replicate: Replicate
  readonly follow: Pick<ReturnType<typeof createFollow>, 'expect' | 'forgo'>
}

interface Waiting {
  readonly job: NewJob
  /** The node that follows it, '' for none. */
  readonly follower: string
  readonly resolve: (accepted: Accepted) => void
  readonly reject: (error: unknown) => void
}

interface Batch {
  readonly addition: Addition
  readonly jobs: Waiting[]
  characters: number
}

/**
 * Makes the intake of a store whose Redis is that of the queues. What is submitted in one turn of the event loop, or while
 * a call is under way, goes to Redis in one call, by tenant, type and priority: under load, that is what both have to do
 * least for.
 */
export function createIntake({ redis, keys, replicate, follow }: IntakeParts): Intake {
  const define = ({ front, script }: typeof inOrder) =>
    defineScript<string[]>(redis, 'intake', ['accepting', front], bullmqScript(script))
  const [runInOrder, runInTurns] = [define(inOrder), define(inTurns)]
  let batches = new Map<string, Batch>()
  let underWay = 0
  let timer: NodeJS.Timeout | undefined

  return (job, addition) =>
    new Promise((resolve, reject) => {
      const { tenant, type, priority } = job.record
      const name = `${tenant} ${type} ${priority}`
      if (batches.size === 0) schedule()
      let batch = batches.get(name)
      if (!batch) batches.set(name, (batch = { addition, jobs: [], characters: 0 }))
      const follower = job.isFollowed ? (follow.expect(job.record.id) ?? '') : ''
      batch.jobs.push({ job, follower, resolve, reject })
      batch.characters += job.input.length
      if (batch.jobs.length < MAX_JOBS && batch.characters < MAX_CHARACTERS) return
      batches.delete(name)
      void send(batch)
    })

  /** At the end of this turn, or of the call that is under way. */
  function schedule(): void {
    if (underWay === 0) setImmediate(sendAll)
    else timer ??= setTimeout(sendAll, GATHER_MS)
  }

  function sendAll(): void {
    clearTimeout(timer)
    timer = undefined
    const all = batches
    batches = new Map()
    for (const batch of all.values()) void send(batch)
  }

  async function send(batch: Batch): Promise<void> {
    const { jobs } = batch
    try {
      const replies = await call(batch)
      await replicate(keys.due)
      for (const [index, { job, resolve }] of jobs.entries()) {
        const accepted = toAccepted(replies[index] ?? '')
        if (accepted.status !== 'accepted') follow.forgo(job.record.id)
        resolve(accepted)
      }
    } catch (error) {
      for (const { job, reject } of jobs) {
        follow.forgo(job.record.id)
        reject(error)
      }
    }
  }

  async function call({ addition, jobs }: Batch): Promise<string[]> {
    underWay++
    try {
      const { tenant, type, priority } = jobs[0]!.job.record
      const run = addition.isInTurns ? runInTurns : runInOrder
      return await run(
        [keys.waiting(type), keys.tenantWaiting(type, tenant), keys.due, keys.list(tenant), ...addition.keys],
        [
          keys.job(''),
          keys.journal(''),
          jobs[0]!.job.maxWaiting,
          jobs[0]!.job.maxWaitingPerTenant ?? '',
          addition.prefix,
          addition.name,
          addition.options.slice(0, -1),
          tenant,
          priority,
          ...jobs.flatMap((each) => argsOf(each, keys)),
        ],
      )
    } finally {
      underWay--
      if (underWay === 0 && batches.size > 0) sendAll()
    }
  }
}

function argsOf({ job, follower }: Waiting, keys: Keys): (string | number)[] {
  const { record, event, input, callback, idempotency } = job
  const kept = packEvent(record, record.seq, event)
  const args = [follower, record.id, record.createdAt, packRecord(record), kept, input, dueOf(record)]
  args.push(
    filterOf(callback),
    callback ? JSON.stringify(callback) : '',
    callback ? originOf(callback.url) : '',
  )
  if (!idempotency) args.push('', '', '')
  else
    args.push(keys.idempotency(record.tenant, idempotency.key), idempotency.fingerprint, idempotency.keepMs)
  return args
}

function toAccepted(reply: string): Accepted {
  const [status = '', id] = reply.split(' ')
  return id === undefined
    ? { status: status as 'accepted' | 'full' | 'tenant_full' }
    : { status: status as 'duplicate' | 'mismatch', id }
}
