import { Client } from 'undici'
import { WebSocket } from 'ws'

export interface HoldOptions {
  readonly mode: keyof typeof modes
  readonly urls: readonly string[]
  readonly jobId: string
  readonly count: number
}

const modes = { sse, websocket } satisfies Record<string, (url: string, jobId: string) => Promise<void>>
const AT_ONCE = 50

/** Opens connections that follow one job, each until it has had its first words, and keeps them until it is killed. */
export async function hold({ mode, urls, jobId, count }: HoldOptions): Promise<never> {
  let opened = 0
  const open = async () => {
    while (opened++ < count) await modes[mode](urls[0] ?? '', jobId)
  }
  await Promise.all(Array.from({ length: AT_ONCE }, open))
  console.log(`open ${count}`)
  return new Promise(() => undefined)
}

function sse(url: string, jobId: string): Promise<void> {
  const client = new Client(url, { headersTimeout: 0, bodyTimeout: 0 })
  return new Promise((resolve, reject) => {
    client.dispatch(
      { method: 'GET', path: `/jobs/${jobId}/events`, headers: { accept: 'text/event-stream' } },
      {
        onRequestStart() {},
        onResponseStart(_controller, status) {
          if (status !== 200) fail(`Expected a stream, got ${status}`)
        },
        onResponseData: () => resolve(),
        onResponseEnd: () => fail('Expected the stream to stay open, got its end'),
        onResponseError: (_controller, error) => fail(error.message),
      },
    )
    function fail(reason: string): void {
      reject(new Error(reason))
      lose(reason)
    }
  })
}

function websocket(url: string, jobId: string): Promise<void> {
  const socket = new WebSocket(`${url.replace('http', 'ws')}/ws`, 'quartet.v1', { perMessageDeflate: false })
  socket.on('open', () => {
    socket.send('{"op":"init"}')
    socket.send(JSON.stringify({ op: 'subscribe', ref: 1, job_id: jobId }))
  })
  socket.on('error', (error) => lose(error.message))
  socket.on('close', (code) => lose(`Expected the socket to stay open, got ${code}`))
  return new Promise((resolve, reject) => {
    socket.on('message', (data: Buffer) => {
      const frame = data.toString()
      if (frame.startsWith('{"op":"error"')) reject(new Error(frame))
      if (frame.startsWith('{"op":"subscribed"')) resolve()
    })
  })
}

/** One less would make the others look cheaper. */
function lose(reason: string): never {
  console.error(reason)
  process.exit(1)
}
