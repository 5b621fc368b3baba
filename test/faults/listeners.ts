import { WebSocket } from 'ws'
import { piecesOf } from '../conformance/clients.ts'

/** What a client heard until its stream or socket ended. */
export interface Heard {
  readonly events: string[]
  /** Of SSE: the waits that it was told, in the order they came. */
  readonly retriesMs: number[]
  /** Of a WebSocket: the code of its close. */
  readonly code: number | null
}

/** Follows a job from its first event until the gateway ends the connection, however it does that. */
export type Follower = (url: string, id: string, onEvent: () => void) => Promise<Heard>

const stream =
  (accept: string): Follower =>
  async (url, id, onEvent) => {
    const heard: Heard = { events: [], retriesMs: [], code: null }
    const response = await fetch(`${url}/jobs/${id}/events`, { headers: { accept } })
    if (response.status !== 200) throw new Error(`Expected a stream, got ${response.status}`)
    for await (const line of piecesOf(response, '\n')) {
      const [, retryMs] = /^retry: (\d+)$/.exec(line) ?? []
      if (retryMs !== undefined) heard.retriesMs.push(Number(retryMs))
      const [, text] = /^(?:data: )?(\{.*)$/.exec(line) ?? []
      if (text === undefined) continue
      heard.events.push(text)
      onEvent()
    }
    return heard
  }

export const overSse = stream('text/event-stream')
export const overNdjson = stream('application/x-ndjson')

export const overWebSocket: Follower = (url, id, onEvent) =>
  new Promise((resolve, reject) => {
    const events: string[] = []
    const head = '{"op":"event","event":'
    const socket = new WebSocket(`${url.replace('http', 'ws')}/ws`, 'quartet.v1')
    socket.on('open', () => {
      socket.send('{"op":"init"}')
      socket.send(JSON.stringify({ op: 'subscribe', ref: 1, job_id: id }))
    })
    socket.on('message', (data: Buffer) => {
      const frame = data.toString()
      if (frame.startsWith('{"op":"end"')) socket.close()
      if (!frame.startsWith(head)) return
      events.push(frame.slice(head.length, -1))
      onEvent()
    })
    socket.on('error', reject)
    socket.on('close', (code) => resolve({ events, retriesMs: [], code }))
  })
