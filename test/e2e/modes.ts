import { once } from 'node:events'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import type { Test } from 'tap'
import { WebSocket } from 'ws'

/**
 * The modes as their clients see them: each yields the raw JSON text of every event after a cursor, until the terminal
 * one. Leaving the loop hangs up.
 */
export type Mode = (url: string, id: string, after: number) => AsyncGenerator<string>

export const isTerminal = (text: string) =>
  /^\{"seq":\d+,"type":"job\.(completed|failed|canceled|expired)"/.test(text)
export const seqOf = (text: string) => Number(/^\{"seq":(\d+)/.exec(text)?.[1])

/** Server-sent events, resumed by Last-Event-ID as an EventSource does. */
export const sse: Mode = async function* (url, id, after) {
  for await (const line of linesOf(`${url}/jobs/${id}/events`, {
    accept: 'text/event-stream',
    ...(after > 0 && { 'last-event-id': String(after) }),
  })) {
    if (line.startsWith('data: ')) yield line.slice('data: '.length)
  }
}

export const ndjson: Mode = async function* (url, id, after) {
  for await (const line of linesOf(`${url}/jobs/${id}/events?after=${after}`, {
    accept: 'application/x-ndjson',
  })) {
    if (line !== '') yield line
  }
}

/** Polling: a long poll tells that there is more, pages of one bring it with its bytes intact. */
export const poll: Mode = async function* (url, id, after) {
  for (let cursor = after; ;) {
    const wait = await fetch(`${url}/jobs/${id}?after=${cursor}`, { headers: { prefer: 'wait=20' } })
    if (!wait.ok) throw new Error(`Expected a job, got ${wait.status}`)
    const { seq } = (await wait.json()) as { seq: number }
    while (cursor < seq) {
      const page = await fetch(`${url}/jobs/${id}/events?after=${cursor}&limit=1`, {
        headers: { accept: 'application/json' },
      })
      if (!page.ok) throw new Error(`Expected a page, got ${page.status}`)
      const body = await page.text()
      const text = body.slice('{"events":['.length, body.lastIndexOf('],"seq":'))
      yield text
      if (isTerminal(text)) return
      cursor = seqOf(text)
    }
  }
}

export const websocket: Mode = async function* (url, id, after) {
  const socket = new WebSocket(`${url.replace('http', 'ws')}/ws`, 'quartet.v1')
  const frames: string[] = []
  let wake: () => void = () => undefined
  socket.on('message', (data: Buffer) => {
    frames.push(data.toString())
    wake()
  })
  // A socket that breaks says so before it is closed; only the latter is its end.
  socket.on('error', () => undefined)
  const closed = new Promise<void>((resolve) => socket.once('close', () => resolve(wake())))
  await once(socket, 'open')
  socket.send('{"op":"init"}')
  socket.send(JSON.stringify({ op: 'subscribe', ref: 1, job_id: id, after }))
  try {
    for (;;) {
      const frame = frames.shift()
      if (frame === undefined) {
        if (socket.readyState === WebSocket.CLOSED) return
        await new Promise<void>((resolve) => (wake = resolve))
      } else if (frame.startsWith('{"op":"event","event":')) {
        yield frame.slice('{"op":"event","event":'.length, -1)
      } else if (frame.startsWith('{"op":"end"')) {
        return
      } else if (frame.startsWith('{"op":"error"')) {
        throw new Error(frame)
      }
    }
  } finally {
    socket.terminate()
    await closed
  }
}

/** A receiver of webhooks: what it got, in the order it came. */
export interface Receiver {
  readonly url: string
  readonly received: { id: string; headers: Record<string, string>; body: string }[]
  /** Resolves with the bodies once the terminal event is among them. */
  readonly complete: Promise<string[]>
}

/** Whether a receiver got a journal as docs/PROTOCOL.md "Webhook" wants it: of progress the latest, all else, in order. */
export function isDelivered(received: readonly string[], journal: readonly string[]): boolean {
  const isProgress = (text: string | undefined) => text?.includes(',"type":"job.progress",') ?? false
  const expected = journal.filter((text, index) => {
    const isOvertaken = isProgress(text) && isProgress(journal[index + 1])
    return received.includes(text) || !isOvertaken
  })
  return String(received) === String(expected)
}

export async function startReceiver(t: Test): Promise<Receiver> {
  const received: Receiver['received'] = []
  let finish: (bodies: string[]) => void
  const complete = new Promise<string[]>((resolve) => (finish = resolve))
  const server: Server = createServer((request, response) => {
    let body = ''
    request.setEncoding('utf8')
    request.on('data', (chunk: string) => (body += chunk))
    request.on('end', () => {
      const headers = request.headers as Record<string, string>
      received.push({ id: headers['webhook-id'] ?? '', headers, body })
      response.writeHead(204).end()
      if (isTerminal(body)) finish(received.map((each) => each.body))
    })
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => server.close())
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/hook`, received, complete }
}

/** All that is left of a mode. */
export async function all(events: AsyncIterable<string>): Promise<string[]> {
  const texts: string[] = []
  for await (const text of events) texts.push(text)
  return texts
}

async function* linesOf(url: string, headers: Record<string, string>): AsyncGenerator<string> {
  const hangUp = new AbortController()
  try {
    const response = await fetch(url, { headers, signal: hangUp.signal })
    if (response.status === 204) return
    if (!response.ok || !response.body) throw new Error(`Expected a stream, got ${response.status}`)
    let rest = ''
    for await (const chunk of response.body.pipeThrough(new TextDecoderStream())) {
      const lines = (rest + chunk).split('\n')
      rest = lines.pop() ?? ''
      yield* lines
    }
  } finally {
    hangUp.abort()
  }
}
