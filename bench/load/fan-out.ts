import { Redis } from 'ioredis'
import { Client } from 'undici'
import { startMeter, type Watched } from './cpu.ts'
import { json, openConnection } from './http.ts'
import { readTick } from './stream.ts'
import type { Report } from './report.ts'

export interface FanOutOptions {
  readonly urls: readonly string[]
  readonly watched: Watched
  readonly redisUrl: string
  readonly clients: number
  /** Of the job; the first one is not measured. */
  readonly rounds: readonly {
    readonly count: number
    readonly interval_ms?: number
    readonly at_once?: boolean
  }[]
}

/** One client of the crowd. */
interface Follower {
  /** Resolves at the end of its stream; rejects when the stream breaks. */
  readonly ended: Promise<void>
  /** The events that it has had. */
  readonly had: () => number
}

const GATE = 'bench:gate'
const CONNECTING = 50
const EVENT = Buffer.from('event: job.progress\n')
const END = Buffer.from('event: job.completed\n')
const NOTHING = Buffer.alloc(0)
const TIMEOUT_MS = 60_000

/** A crowd that follows one job. Each must get every event, and one of them looks at what it gets. */
export async function fanOut(options: FanOutOptions): Promise<Report> {
  const { urls, watched, redisUrl, clients, rounds } = options
  const [url = ''] = urls
  const id = await submitGated(url, rounds)
  const followers: Follower[] = []
  let [heard, awaited] = [0, 0]
  let reached: () => void = () => undefined
  const onEvents = (many: number) => {
    heard += many
    if (heard >= awaited) reached()
  }
  const connect = async () => {
    while (followers.length < clients) await follow(url, id, onEvents, followers)
  }
  await Promise.all(Array.from({ length: CONNECTING }, connect))

  const redis = new Redis(redisUrl)
  const ended = Promise.all(followers.map((follower) => follower.ended))
  const [warmUp, ...measured] = rounds
  await runRound(warmUp?.count ?? 0)
  const meter = startMeter(watched)
  let count = 0
  for (const round of measured) count += await runRound(round.count)
  const { cpu, seconds } = meter.read()
  await within(ended)
  for (const follower of followers) {
    const wanted = rounds.reduce((sum, round) => sum + round.count, 0)
    if (follower.had() !== wanted) throw new Error(`Expected ${wanted} events, got ${follower.had()}`)
  }
  redis.disconnect()
  return { count, seconds, cpu, values: { per_second: count / seconds } }

  /** Lets the worker go on, and waits until everybody has had the events. @returns deliveries */
  async function runRound(events: number): Promise<number> {
    awaited += events * clients
    const all = new Promise<void>((resolve) => (reached = resolve))
    await redis.lpush(GATE, 'go')
    await within(Promise.race([all, ended]))
    return events * clients
  }
}

/** A job that its worker only begins to tell of when the gate is opened. */
async function submitGated(url: string, rounds: FanOutOptions['rounds']): Promise<string> {
  const connection = openConnection(url)
  const body = JSON.stringify({ type: 'ticks', input: { rounds, gate: GATE } })
  const { status, text } = await connection.request({ method: 'POST', path: '/jobs', headers: json, body })
  await connection.close()
  const id = /"job_id":"([^"]+)"/.exec(text)?.[1]
  if (status !== 202 || id === undefined) throw new Error(`Expected 202 with a job, got ${status}: ${text}`)
  return id
}

/** Opens a stream; resolves when the server has answered, and what it has by then is on its way. */
function follow(
  url: string,
  id: string,
  onEvents: (many: number) => void,
  followers: Follower[],
): Promise<void> {
  const client = new Client(url, { headersTimeout: TIMEOUT_MS, bodyTimeout: TIMEOUT_MS })
  const inspect = followers.length === 0 ? createInspector() : () => undefined
  let [had, isComplete] = [0, false]
  let rest: Buffer = NOTHING
  return new Promise((resolve, reject) => {
    const ended = new Promise<void>((end, fail) => {
      client.dispatch(
        { method: 'GET', path: `/jobs/${id}/events`, headers: { accept: 'text/event-stream' } },
        {
          onRequestStart() {},
          onResponseStart(_controller, status) {
            if (status === 200) resolve()
            else fail(new Error(`Expected a stream, got ${status}`))
          },
          onResponseData(_controller, chunk) {
            inspect(chunk)
            const bytes = rest.length > 0 ? Buffer.concat([rest, chunk]) : chunk
            // Mostly a chunk ends with an event; otherwise the beginning of a name may be at its end.
            const isWhole = bytes.at(-1) === 10 && bytes.at(-2) === 10
            rest = isWhole ? NOTHING : bytes.subarray(Math.max(0, bytes.length - EVENT.length + 1))
            const many = count(bytes)
            had += many
            isComplete ||= bytes.includes(END)
            if (many > 0) onEvents(many)
          },
          onResponseEnd() {
            void client.destroy()
            if (isComplete) end()
            else fail(new Error('Expected the end of the job, got the end of its stream'))
          },
          onResponseError: (_controller, error) => fail(error),
        },
      )
    })
    ended.catch(reject)
    followers.push({ ended, had: () => had })
  })
}

function count(bytes: Buffer): number {
  let many = 0
  for (let at = bytes.indexOf(EVENT); at !== -1; at = bytes.indexOf(EVENT, at + EVENT.length)) many++
  return many
}

/** Throws unless the events come in order. */
function createInspector(): (chunk: Buffer) => void {
  let [rest, n] = ['', 0]
  return (chunk) => {
    const lines = (rest + chunk.toString()).split('\n')
    rest = lines.pop() ?? ''
    for (const line of lines) if (readTick(line, n) !== null) n++
  }
}

function within<T>(promise: Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout
  const late = new Promise<never>((_resolve, reject) => {
    timer = setTimeout(
      () => reject(new Error(`Expected everybody to have it within ${TIMEOUT_MS} ms, got less`)),
      TIMEOUT_MS,
    )
  })
  return Promise.race([promise, late]).finally(() => clearTimeout(timer))
}
