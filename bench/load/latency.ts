import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'
import { WebSocket } from 'ws'
import { startMeter, type Watched } from './cpu.ts'
import { eventStream, json, openConnection } from './http.ts'
import { latencies, type Report } from './report.ts'
import { endToEnd } from './submit.ts'

export interface LatencyOptions {
  readonly mode: keyof typeof modes
  readonly urls: readonly string[]
  readonly watched: Watched
  /** Jobs over SSE with many at a time: a gateway that has been idle from its start on would not have been compiled. */
  readonly compiling: number
  /** Of the mode, one at a time. */
  readonly warmUp: number
  readonly measured: number
}

/** One job from its submission until its result is in hand; rejects for any other end. @returns milliseconds */
type Ask = (n: number) => Promise<number>

const modes = { sse, websocket, wait, webhook } satisfies Record<string, (url: string) => Promise<Ask>>
const TIMEOUT_MS = 10_000

/** One job after another, with a rest between them: nothing else is going on. */
export async function latency(options: LatencyOptions): Promise<Report> {
  const { mode, urls, watched, compiling, warmUp, measured } = options
  await endToEnd({ urls, watched, atOnce: 16, warmUp: compiling, measureMs: 1 })
  const ask = await modes[mode](urls[0] ?? '')
  let n = 0
  for (; n < warmUp; n++) await ask(n)
  const took: number[] = []
  const meter = startMeter(watched)
  for (; n < warmUp + measured; n++) {
    // Not always the same rest: nothing shall be in step with anyone's timer.
    await delay(2 + (n % 7))
    took.push(await ask(n))
  }
  return { count: measured, ...meter.read(), values: { ...latencies(took) } }
}

const echo = (n: number) => ({ type: 'echo', input: { hello: 'world', n } })
const marker = (n: number) => `"n":${n}}`

/** The events as the answer to the POST. */
async function sse(url: string): Promise<Ask> {
  const connection = openConnection(url)
  return async (n) => {
    const since = performance.now()
    let took = NaN
    const { status, text } = await connection.request(
      { method: 'POST', path: '/jobs', headers: eventStream, body: JSON.stringify(echo(n)) },
      (piece) => {
        if (piece.includes('event: job.completed')) took = performance.now() - since
      },
    )
    if (
      status !== 200 ||
      Number.isNaN(took) ||
      !text.includes(marker(n), text.indexOf('event: job.completed'))
    )
      throw new Error(`Expected a result, got ${status}: ${text}`)
    return took
  }
}

/** The POST held until the job has ended. */
async function wait(url: string): Promise<Ask> {
  const connection = openConnection(url)
  const headers = { ...json, prefer: 'wait=10' }
  return async (n) => {
    const since = performance.now()
    const { status, text } = await connection.request({
      method: 'POST',
      path: '/jobs',
      headers,
      body: JSON.stringify(echo(n)),
    })
    const took = performance.now() - since
    if (status !== 200 || !text.includes('"status":"completed"') || !text.includes(marker(n)))
      throw new Error(`Expected a result, got ${status}: ${text}`)
    return took
  }
}

/** Submitted and followed on one socket that is open already. */
async function websocket(url: string): Promise<Ask> {
  const socket = new WebSocket(`${url.replace('http', 'ws')}/ws`, 'quartet.v1', { perMessageDeflate: false })
  let onFrame: (frame: string) => void = () => undefined
  socket.on('message', (data: Buffer) => onFrame(data.toString()))
  await once(socket, 'open')
  const ready = within(new Promise<void>((resolve) => (onFrame = () => resolve())))
  socket.send('{"op":"init"}')
  await ready
  return (n) => {
    const since = performance.now()
    const ended = new Promise<number>((resolve, reject) => {
      onFrame = (frame) => {
        if (frame.includes('"type":"job.completed"') && frame.includes(marker(n)))
          resolve(performance.now() - since)
        else if (/"op":"error"|"type":"job\.(failed|completed)"/.test(frame))
          reject(new Error(`Expected a result, got ${frame}`))
      }
    })
    socket.send(JSON.stringify({ op: 'submit', ref: n, job: echo(n) }))
    return within(ended)
  }
}

/** Until the webhook has arrived with its body. */
async function webhook(url: string): Promise<Ask> {
  let onBody: (body: string) => void = () => undefined
  const server = createServer((request, response) => {
    let body = ''
    request.setEncoding('utf8').on('data', (piece: string) => (body += piece))
    request.on('end', () => {
      onBody(body)
      response.writeHead(204).end()
    })
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  const callbackUrl = `http://127.0.0.1:${(server.address() as AddressInfo).port}/`
  const connection = openConnection(url)
  return async (n) => {
    const since = performance.now()
    const arrived = new Promise<number>((resolve, reject) => {
      onBody = (body) => {
        if (body.includes('"type":"job.completed"') && body.includes(marker(n)))
          resolve(performance.now() - since)
        else reject(new Error(`Expected the webhook of job ${n}, got ${body}`))
      }
    })
    const { status, text } = await connection.request({
      method: 'POST',
      path: '/jobs',
      headers: json,
      body: JSON.stringify({ ...echo(n), callback_url: callbackUrl }),
    })
    if (status !== 202) throw new Error(`Expected 202, got ${status}: ${text}`)
    return within(arrived)
  }
}

async function within<T>(promise: Promise<T>): Promise<T> {
  const late = delay(TIMEOUT_MS, undefined, { ref: false }).then(() => {
    throw new Error(`Expected an answer within ${TIMEOUT_MS} ms, got none`)
  })
  return Promise.race([promise, late])
}
