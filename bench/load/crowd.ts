import { Client } from 'undici'
import { readTick } from './stream.ts'

/** Clients that follow one stream of events. */
export interface Crowd {
  /** Resolves when all of them together have had so many events; rejects when one is cut off. */
  had(events: number): Promise<void>
  /** Resolves at the end of all streams; rejects unless each has had so many events. */
  ended(each: number): Promise<void>
}

interface Follower {
  /** Resolves at the end of its stream; rejects when the stream breaks. */
  readonly ended: Promise<void>
  /** The events that it has had. */
  readonly had: () => number
}

const CONNECTING = 50
const EVENT = Buffer.from('event: job.progress\n')
const END = Buffer.from('job.completed')
const NOTHING = Buffer.alloc(0)
const TIMEOUT_MS = 60_000

/** Opens the streams. One of the clients looks at what it gets, and throws unless the events come in order. */
export async function gather(url: string, path: string, clients: number): Promise<Crowd> {
  const followers: Follower[] = []
  let [heard, awaited] = [0, 0]
  let reached: () => void = () => undefined
  const onEvents = (many: number) => {
    heard += many
    if (heard >= awaited) reached()
  }
  const connect = async () => {
    while (followers.length < clients) await follow(url, path, onEvents, followers)
  }
  await Promise.all(Array.from({ length: CONNECTING }, connect))
  const ends = Promise.all(followers.map((follower) => follower.ended))

  return {
    async had(events) {
      awaited = events
      const all = new Promise<void>((resolve) => (reached = resolve))
      if (heard < awaited) await within(Promise.race([all, ends]))
    },
    async ended(each) {
      await within(ends)
      const other = followers.find((follower) => follower.had() !== each)
      if (other) throw new Error(`Expected ${each} events, got ${other.had()}`)
    },
  }
}

/** Opens a stream; resolves when the server has answered, and what it has by then is on its way. */
function follow(
  url: string,
  path: string,
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
        { method: 'GET', path, headers: { accept: 'text/event-stream' } },
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
