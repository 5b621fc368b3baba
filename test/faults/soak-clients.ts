import { randomUUID } from 'node:crypto'
import { setTimeout as delay } from 'node:timers/promises'
import { all, isTerminal, ndjson, poll, seqOf, sse, websocket, type Mode } from '../e2e/modes.ts'
import { order } from '../e2e/processes.ts'

const modes: readonly Mode[] = [sse, ndjson, websocket, poll]
/** Journals stay for half a minute after the end. */
const RETRY_MS = 100

export interface SoakClients {
  /** Ids of the jobs that were followed to their end and held against their journal. */
  readonly checked: string[]
  /** What was seen that is not the journal: the job's id, and in what way. */
  readonly wrong: string[]
  /** Ids of the jobs whose end goes to the receiver. */
  readonly called: string[]
  readonly resumed: number
  readonly canceled: number
  /** Submissions that had no answer, or a 503, and were made again with the same key. */
  readonly retries: number
  whenChecked(count: number): Promise<void>
  /** Resolves when no client has a job under way. */
  pause(): Promise<void>
  resume(): void
  stop(): Promise<void>
}

/**
 * Clients as docs/PROTOCOL.md wants them: each submits a job with a key until it is answered, follows it in one mode or
 * another on any node, from its cursor whenever that breaks off, and then compares what it saw with the journal.
 *
 * @param urls of the nodes; may change at any time
 */
export function startSoakClients(urls: readonly string[], count: number, callbackUrl: string): SoakClients {
  const state = { resumed: 0, canceled: 0, retries: 0 }
  const checked: string[] = []
  const wrong: string[] = []
  const called: string[] = []
  let stopping = new AbortController()
  let running = start(stopping.signal)

  return {
    checked,
    wrong,
    called,
    get resumed() {
      return state.resumed
    },
    get canceled() {
      return state.canceled
    },
    get retries() {
      return state.retries
    },
    async whenChecked(many) {
      while (checked.length < many) await delay(50)
    },
    pause: stop,
    resume() {
      stopping = new AbortController()
      running = start(stopping.signal)
    },
    stop,
  }

  async function stop(): Promise<void> {
    stopping.abort()
    await running
  }

  function start(signal: AbortSignal): Promise<unknown> {
    return Promise.all(
      Array.from({ length: count }, async () => {
        while (!signal.aborted) await live()
      }),
    )
  }

  async function live(): Promise<void> {
    const hasCallback = Math.random() < 0.1
    const id = await submitted({ ...pick(jobs), ...(hasCallback && { callback_url: callbackUrl }) })
    if (hasCallback) called.push(id)
    if (Math.random() < 0.05) void cancel(id)
    const seen = await followed(id)
    const journal = await insist(() => all(ndjson(pick(urls), id, 0)))
    checked.push(id)
    const numbers = seen.map(seqOf)
    if (String(seen) !== String(journal))
      wrong.push(`${id}: saw ${numbers.join()}, not ${journal.map(seqOf).join()}`)
    else if (numbers.some((seq, index) => seq !== index + 1)) wrong.push(`${id}: numbered ${numbers.join()}`)
    else if (seen.filter(isTerminal).length !== 1) wrong.push(`${id}: not one terminal event`)
  }

  /** Whether an answer was lost or never given is the same to a client that has a key. */
  async function submitted(job: object): Promise<string> {
    const key = randomUUID()
    return insist(
      async () => {
        const answer = await fetch(`${pick(urls)}/jobs`, {
          method: 'POST',
          headers: { 'content-type': 'application/json', 'idempotency-key': key },
          body: JSON.stringify(job),
        })
        // 200 if it was accepted before, and has ended meanwhile.
        if (answer.status !== 202 && answer.status !== 200)
          throw new Error(`Expected 202 or 200, got ${answer.status}: ${await answer.text()}`)
        return ((await answer.json()) as { job_id: string }).job_id
      },
      () => state.retries++,
    )
  }

  async function followed(id: string): Promise<string[]> {
    const seen: string[] = []
    while (!isTerminal(seen.at(-1) ?? '')) {
      try {
        for await (const text of pick(modes)(pick(urls), id, seqOf(seen.at(-1) ?? '{"seq":0,')))
          seen.push(text)
      } catch {
        // Broken off: that is what a cursor is for.
        await delay(RETRY_MS)
      }
      if (!isTerminal(seen.at(-1) ?? '')) state.resumed++
    }
    return seen
  }

  async function cancel(id: string): Promise<void> {
    await delay(Math.random() * 500)
    const status = await insist(async () => {
      const answer = await fetch(`${pick(urls)}/jobs/${id}/cancel`, { method: 'POST' })
      if (answer.status === 503) throw new Error('Expected an answer, got 503')
      return answer.status
    })
    if (status === 200 || status === 202) state.canceled++
  }
}

const jobs: readonly object[] = [
  { type: 'echo', input: { hello: 'world' } },
  { type: 'countdown', input: { from: 10, interval_ms: 50 } },
  order,
]

/** Tries until it succeeds: what fails here is a gateway or a Redis that will be back. */
async function insist<T>(task: () => Promise<T>, onRetry: () => void = () => undefined): Promise<T> {
  for (;;) {
    try {
      return await task()
    } catch {
      onRetry()
      await delay(RETRY_MS)
    }
  }
}

function pick<T>(from: readonly T[]): T {
  return from[Math.floor(Math.random() * from.length)] as T
}
