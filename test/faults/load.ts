import { setTimeout as delay } from 'node:timers/promises'
import { Agent, request } from 'undici'

/*
 * Load that counts: every job that was promised is held against its journal afterwards. What a client would do after a
 * 503 or a broken connection (try again elsewhere) is not done, so that each promise is one answer.
 */

export interface LoadOptions {
  /** Gateways, taken in turn. */
  readonly urls: readonly string[]
  /** Submissions under way at a time. */
  readonly concurrency: number
  readonly job: object
}

export interface Load {
  /** Ids that were answered with 202. */
  readonly accepted: string[]
  /** Answers other than 202, by status or error code. */
  readonly refused: Record<string, number>
  /** Stops submitting; resolves when every submission has its answer. */
  stop(): Promise<void>
  /** Resolves when so many jobs have been accepted. */
  whenAccepted(count: number): Promise<void>
}

/** Submits without pause until stopped. */
export function startLoad({ urls, concurrency, job }: LoadOptions): Load {
  const agent = new Agent({ connections: concurrency, headersTimeout: 30_000 })
  const accepted: string[] = []
  const refused: Record<string, number> = {}
  const waiting: { count: number; resolve: () => void }[] = []
  const body = JSON.stringify(job)
  const stopping = new AbortController()
  let turn = 0

  const submitters = Array.from({ length: concurrency }, async () => {
    while (!stopping.signal.aborted) await submit(urls[turn++ % urls.length] ?? '')
  })
  return {
    accepted,
    refused,
    async stop() {
      stopping.abort()
      await Promise.all(submitters)
      await agent.destroy()
    },
    whenAccepted: (count) =>
      accepted.length >= count
        ? Promise.resolve()
        : new Promise((resolve) => waiting.push({ count, resolve })),
  }

  async function submit(url: string): Promise<void> {
    try {
      const answer = await request(`${url}/jobs`, {
        dispatcher: agent,
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body,
      })
      const text = await answer.body.text()
      if (answer.statusCode === 202) accept((JSON.parse(text) as { job_id: string }).job_id)
      else await refuse(String(answer.statusCode))
    } catch (error) {
      await refuse((error as NodeJS.ErrnoException).code ?? String(error))
    }
  }

  function accept(id: string): void {
    accepted.push(id)
    for (const each of waiting) if (accepted.length >= each.count) each.resolve()
  }

  /** A little patience, or a gateway that is away would be asked thousands of times a second. */
  async function refuse(reason: string): Promise<void> {
    refused[reason] = (refused[reason] ?? 0) + 1
    await delay(20)
  }
}

/** What became of promised jobs. All but `ended` and `terminal` are faults. */
export interface Count {
  ended: number
  missing: string[]
  unfinished: string[]
  /** Journals with a hole, a repeat, or an event after the terminal one. */
  broken: string[]
  /** Terminal statuses. */
  terminal: Record<string, number>
  retried: number
}

/** An event of a journal, as far as it is counted. */
export interface Event {
  job_id: string
  seq: number
  type: string
  timestamp: string
  status: string
  data: { reason?: string }
}

/**
 * Reads every journal until all have ended, or the time is over.
 *
 * @param inspect is shown every journal
 */
export async function count(
  url: string,
  ids: readonly string[],
  withinMs: number,
  inspect: (events: readonly Event[]) => void = () => undefined,
): Promise<Count> {
  const agent = new Agent({ connections: 16 })
  const result: Count = { ended: 0, missing: [], unfinished: [], broken: [], terminal: {}, retried: 0 }
  const until = Date.now() + withinMs
  const queue = [...ids]
  await Promise.all(
    Array.from({ length: 16 }, async () => {
      for (let id = queue.pop(); id !== undefined; id = queue.pop()) await follow(id)
    }),
  )
  await agent.destroy()
  return result

  async function follow(id: string): Promise<void> {
    for (;;) {
      const events = await read(id)
      if (!events) {
        result.missing.push(id)
        return
      }
      const terminal = events.filter(({ type }) => /^job\.(completed|failed|canceled|expired)$/.test(type))
      if (terminal.length === 0 && Date.now() < until) {
        await delay(200)
        continue
      }
      judge(id, events, terminal)
      return
    }
  }

  function judge(id: string, events: readonly Event[], terminal: readonly Event[]): void {
    inspect(events)
    const last = events.at(-1)
    const isWhole = events.every(({ seq }, index) => seq === index + 1)
    if (!last || terminal.length === 0) result.unfinished.push(id)
    else if (!isWhole || terminal.length > 1 || terminal[0] !== last) result.broken.push(id)
    else {
      result.ended++
      result.terminal[last.status] = (result.terminal[last.status] ?? 0) + 1
    }
    if (events.some(({ type }) => type === 'step.retrying')) result.retried++
  }

  async function read(id: string): Promise<Event[] | null> {
    const answer = await request(`${url}/jobs/${id}/events?limit=1000`, {
      dispatcher: agent,
      headers: { accept: 'application/json' },
    })
    const text = await answer.body.text()
    if (answer.statusCode === 404) return null
    if (answer.statusCode !== 200)
      throw new Error(`Expected a page of events, got ${answer.statusCode}: ${text}`)
    return (JSON.parse(text) as { events: Event[] }).events
  }
}

/** One line of figures: what docs/RELIABILITY.md shows. */
export function figures(
  name: string,
  load: Load,
  { ended, terminal, retried }: Count,
  recoveriesMs: readonly number[] = [],
): string {
  const refused = Object.values(load.refused).reduce((sum, each) => sum + each, 0)
  const sorted = recoveriesMs.toSorted((a, b) => a - b)
  const p50 = sorted[Math.floor(sorted.length / 2)]
  const recovery = sorted.length > 0 ? ` · recovery p50 ${seconds(p50)} max ${seconds(sorted.at(-1))}` : ''
  const statuses = Object.entries(terminal).map(([status, many]) => `${many} ${status}`)
  return (
    `${name}: ${load.accepted.length} accepted, ${ended} ended (${statuses.join(', ')}), ` +
    `${refused} refused, ${retried} retried${recovery}`
  )
}

function seconds(ms = 0): string {
  return `${(ms / 1_000).toFixed(1)} s`
}
