import { setTimeout as delay } from 'node:timers/promises'
import { UnrecoverableError, WaitingError, type Job, type MinimalJob } from 'bullmq'
import type { FastifyBaseLogger } from 'fastify'
import { leases } from '../../workers/options.ts'
import type { Service } from '../steps.ts'
import type { Connect } from '../store/redis/connect.ts'
import type { Store } from '../store/store.ts'
import { createCaller } from './call-service.ts'
import type { Circuit, Health } from './circuit.ts'
import { createCircuits } from './circuits.ts'
import type { Answer } from './judge-answer.ts'
import { TextWorker } from './text-worker.ts'
import { watchJob } from './watch-job.ts'

/** How long calls under way may take once the process closes; then their jobs go back into the queue. */
const GRACE_MS = 4_000
/** What a job is given back within. */
const GIVE_BACK_MS = 500

export interface HttpStepsParts {
  /** By queue. */
  readonly services: ReadonlyMap<string, Service>
  readonly store: Pick<Store, 'follow' | 'load' | 'reportService'>
  readonly connect: Connect
  /** BullMQ's key prefix. */
  readonly prefix: string
  readonly log: FastifyBaseLogger
  /** How long a circuit that opens stays open, the first time and each further time in a row. */
  readonly circuitWaitsMs?: readonly number[]
}

export interface HttpSteps {
  /** Takes no more jobs, and gives the calls under way some time. Jobs that wait, or take longer, go back into their queue. */
  close(): Promise<void>
}

/** A call that failed and may be made again. */
class CallFailed extends Error {
  readonly retryAfterMs: number

  constructor(reason: string, retryAfterMs: number) {
    super(reason)
    this.retryAfterMs = retryAfterMs
  }
}

/** The process closes: the job is put back as if it had not been taken. */
class GivenBack extends Error {}

/** Runs the workers of the steps that are services: docs/PROTOCOL.md "HTTP step". */
export function startHttpSteps(parts: HttpStepsParts): HttpSteps {
  const { services, store, log } = parts
  const caller = createCaller()
  const circuits = createCircuits({ store, log, waitsMs: parts.circuitWaitsMs })
  const connection = services.size > 0 ? parts.connect('blocking') : null
  const underWay = new Set<AbortController>()
  const held = new Set<AbortController>()
  let isClosing = false
  const workers = [...services].map(([queue, service]) => start(queue, service))

  return {
    async close() {
      isClosing = true
      giveBack(held)
      const closed = Promise.all(workers.map((worker) => worker.close()))
      await Promise.race([closed, delay(GRACE_MS, undefined, { ref: false })])
      giveBack(underWay)
      await Promise.race([closed, delay(GIVE_BACK_MS, undefined, { ref: false })])
      connection?.disconnect()
      await caller.close()
    },
  }

  function start(queue: string, service: Service): TextWorker {
    const worker = new TextWorker(queue, (job, token) => work(job, token, service), {
      ...leases,
      connection: connection ?? {},
      prefix: parts.prefix,
      concurrency: service.concurrency,
      settings: { backoffStrategy: waitAfter },
    })
    // Its connection reports its own errors; without a listener the event would throw.
    worker.on('error', (err) => log.debug({ err, queue }, 'trouble with a worker of an HTTP step'))
    return worker
  }

  async function work(
    job: Job<string, string>,
    token: string | undefined,
    service: Service,
  ): Promise<string> {
    const over = new AbortController()
    underWay.add(over)
    const stop = await watchJob({ store, log }, job.id ?? '', over)
    try {
      return await insist(job, service, over)
    } catch (error) {
      if (!(error instanceof GivenBack)) throw error
      await job.moveToWait(token)
      throw new WaitingError()
    } finally {
      stop()
      underWay.delete(over)
    }
  }

  /** Calls until there is an answer that counts. While the circuit is open none does: the job waits, with its attempts. */
  async function insist(job: Job<string, string>, service: Service, over: AbortController): Promise<string> {
    const circuit = circuits.of(service)
    const call = { service, id: job.id ?? '', step: job.queueName, input: job.data, signal: over.signal }
    let isTold = false
    for (;;) {
      if (circuit.isOpen && !isTold) {
        isTold = true
        void tellOfWaiting(job)
      }
      const settle = await enter(circuit, over)
      let answer: Answer | null = null
      try {
        answer = await caller.call(call)
      } finally {
        settle(healthOf(answer))
      }
      if (answer.status === 'done') return answer.result
      if (answer.status === 'refused') throw new UnrecoverableError(answer.reason)
      if (!answer.isDown || !circuit.isOpen) throw new CallFailed(answer.reason, answer.retryAfterMs ?? 0)
    }
  }

  async function enter(circuit: Circuit, over: AbortController): ReturnType<Circuit['enter']> {
    if (circuit.isOpen && isClosing) throw new GivenBack()
    held.add(over)
    try {
      return await circuit.enter(over.signal)
    } finally {
      held.delete(over)
    }
  }

  /** A client that sees the job stand still shall see why. */
  async function tellOfWaiting(job: Job<string, string>): Promise<void> {
    const message = 'waiting for the service, which keeps failing'
    await job.updateProgress({ message }).catch((err: unknown) => log.debug({ err, job_id: job.id }, message))
  }
}

function giveBack(jobs: ReadonlySet<AbortController>): void {
  for (const over of jobs) over.abort(new GivenBack())
}

/** What an answer says of the service; null for a call that was cut off. */
function healthOf(answer: Answer | null): Health {
  if (answer === null) return 'unknown'
  return answer.status === 'failed' && answer.isDown ? { downForMs: answer.retryAfterMs ?? 0 } : 'up'
}

/** The wait before the next attempt: BullMQ's exponential one, or longer if the service asked for that. */
function waitAfter(attemptsMade: number, _type?: string, error?: Error, job?: MinimalJob): number {
  const { backoff } = job?.opts ?? {}
  const firstMs = typeof backoff === 'object' ? (backoff.delay ?? 0) : 0
  const askedMs = error instanceof CallFailed ? error.retryAfterMs : 0
  return Math.max(firstMs * 2 ** (attemptsMade - 1), askedMs)
}
