import { once } from 'node:events'
import type { ClientRequestArgs } from 'node:http'
import { connect, type Socket } from 'node:net'
import type { Test } from 'tap'
import { WebSocket } from 'ws'
import type { alone } from './bounds.ts'
import { startReceiver, submit } from './conformance/clients.ts'
import type { TestGateway } from './gateway.ts'

/* Clients of each mode that count what comes to them. */

/** A client that hears of one job. */
export interface Client {
  readonly id: string
  /** Resolves once it knows of an event of this type; at once if its mode does not tell. */
  heard(type: string): Promise<unknown>
  /** That have come from the gateway by now. */
  bytes(): number
}

export type Mode = (t: Test, gateway: TestGateway) => Promise<Client>

export const QUEUE = 'counted'
export const BODY = { type: QUEUE, input: { hello: 'world' } }
export const modes: Record<keyof typeof alone, Mode> = {
  nobody,
  polling,
  sse,
  ndjson,
  attached,
  websocket,
  webhook,
}

async function nobody(_t: Test, gateway: TestGateway): Promise<Client> {
  const { job_id: id } = await submit(gateway, BODY)
  return { id, heard: async () => undefined, bytes: () => 0 }
}

function sse(t: Test, gateway: TestGateway): Promise<Client> {
  return stream(t, gateway, 'text/event-stream')
}

function ndjson(t: Test, gateway: TestGateway): Promise<Client> {
  return stream(t, gateway, 'application/x-ndjson')
}

async function stream(t: Test, gateway: TestGateway, accept: string): Promise<Client> {
  const wire = await openWire(t, gateway.url)
  wire.request('POST', '/jobs', { accept }, JSON.stringify(BODY))
  const [, id = ''] = await wire.until(/x-correlation-id: (\S+)/)
  return { id, heard: (type) => wire.until(new RegExp(`"type":"${type}"`)), bytes: wire.bytes }
}

async function attached(t: Test, gateway: TestGateway): Promise<Client> {
  const { id } = await nobody(t, gateway)
  const wire = await openWire(t, gateway.url)
  wire.request('GET', `/jobs/${id}/events`, { accept: 'text/event-stream' })
  return { id, heard: (type) => wire.until(new RegExp(`"type":"${type}"`)), bytes: wire.bytes }
}

/** Asks on as soon as it has an answer; how the job stands tells it what has happened. */
async function polling(t: Test, gateway: TestGateway): Promise<Client> {
  const wire = await openWire(t, gateway.url)
  wire.request('POST', '/jobs', {}, JSON.stringify(BODY))
  const [, id = ''] = await wire.until(/"job_id":"([^"]+)".*"seq":1,/)
  const seqs: Record<string, number> = {
    'job.queued': 1,
    'step.started': 2,
    'job.progress': 3,
    'job.completed': 4,
  }
  const poll = (after: number) => wire.request('GET', `/jobs/${id}?after=${after}`, { prefer: 'wait=30' })
  return {
    id,
    async heard(type) {
      const seq = seqs[type] ?? 0
      await wire.until(new RegExp(`"seq":${seq},`))
      if (type !== 'job.completed') poll(seq)
    },
    bytes: wire.bytes,
  }
}

async function websocket(t: Test, gateway: TestGateway): Promise<Client> {
  let wire: Socket | undefined
  const socket = new WebSocket(`${gateway.url.replace('http', 'ws')}/ws`, 'quartet.v1', {
    createConnection: (options: ClientRequestArgs) =>
      (wire = connect(Number(options.port), options.host ?? undefined)),
  })
  t.teardown(() => socket.terminate())
  const text = createText()
  socket.on('message', (data: Buffer) => text.add(data.toString()))
  await once(socket, 'open')
  socket.send('{"op":"init"}')
  socket.send(JSON.stringify({ op: 'submit', ref: 1, job: BODY }))
  const [, id = ''] = await text.until(/"op":"accepted".*?"job_id":"([^"]+)"/)
  return {
    id,
    heard: (type) => text.until(new RegExp(`"type":"${type}"`)),
    bytes: () => wire?.bytesRead ?? 0,
  }
}

async function webhook(t: Test, gateway: TestGateway): Promise<Client> {
  let bytes = 0
  const receiver = await startReceiver(t, (response) => {
    bytes = response.socket?.bytesRead ?? 0
    response.writeHead(204).end()
  })
  const { job_id: id } = await submit(gateway, { ...BODY, callback_url: receiver.url })
  return {
    id,
    heard: async (type) => (type === 'job.completed' ? receiver.next() : undefined),
    bytes: () => bytes,
  }
}

/** A connection whose bytes are counted. */
async function openWire(t: Test, url: string) {
  const { port, hostname, host } = new URL(url)
  const socket = connect(Number(port), hostname)
  t.teardown(() => socket.destroy())
  const text = createText()
  socket.setEncoding('utf8').on('data', (piece: string) => text.add(piece))
  await once(socket, 'connect')
  return {
    request(method: string, path: string, headers: Record<string, string>, body = ''): void {
      const sent = Object.entries({
        host,
        ...headers,
        ...(body !== '' && { 'content-type': 'application/json', 'content-length': String(body.length) }),
      })
      const head = sent.map(([name, value]) => `${name}: ${value}\r\n`).join('')
      socket.write(`${method} ${path} HTTP/1.1\r\n${head}\r\n${body}`)
    },
    until: text.until,
    bytes: () => socket.bytesRead,
  }
}

/** Text that comes in pieces, for whoever waits for some of it. */
function createText() {
  let text = ''
  let look: () => void = () => undefined
  return {
    add(piece: string): void {
      text += piece
      look()
    },
    until: (pattern: RegExp): Promise<RegExpExecArray> =>
      new Promise((resolve) => {
        look = () => {
          const found = pattern.exec(text)
          if (found) resolve(found)
        }
        look()
      }),
  }
}
