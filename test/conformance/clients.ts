import { once } from 'node:events'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import { connect, type AddressInfo } from 'node:net'
import { text } from 'node:stream/consumers'
import type { Job, WorkerOptions } from 'bullmq'
import type { Test } from 'tap'
import { WebSocket } from 'ws'
import { problems, type ProblemCode, type ProblemObject } from '../../src/errors.ts'
import type { JobStatus } from '../../src/messages.ts'
import type { TestGateway } from '../gateway.ts'

/** The job as clients see it. */
export interface JobObject {
  job_id: string
  type: string
  status: JobStatus
  step: { name: string; index: number; count: number; attempt: number }
  progress: { percent?: number; message?: string } | null
  result: unknown
  error: ProblemObject | null
  seq: number
  metadata: Record<string, string>
  created_at: string
  started_at: string | null
  finished_at: string | null
  expires_at: string | null
  links: { self: string; events: string; cancel: string }
}

/** An event as clients see it. */
export interface Envelope {
  seq: number
  type: string
  timestamp: string
  job_id: string
  status: JobStatus
  data: Record<string, unknown>
  truncated?: boolean
}

export const parse = (text: string) => JSON.parse(text) as Envelope
export const jobIn = async (response: Response) => (await response.json()) as JobObject
export const isoTime = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/

/** Things in the order in which they came, for whoever asks for the next. */
export function createInbox<T>() {
  const items: T[] = []
  const waiting: ((item: T) => void)[] = []
  return {
    push(item: T): void {
      const resolve = waiting.shift()
      if (resolve) resolve(item)
      else items.push(item)
    },
    async next(): Promise<T> {
      const item = items.shift()
      return item ?? new Promise((resolve) => waiting.push(resolve))
    },
    isEmpty: () => items.length === 0,
  }
}

/** An attempt that a worker has taken, and that ends when the test says so. */
export interface Attempt {
  readonly job: Job
  complete(result?: unknown): void
  fail(reason: string): void
}

/** Runs a plain worker whose attempts the test ends one by one. */
export async function leadWorker(gateway: TestGateway, queue: string, options?: Partial<WorkerOptions>) {
  const attempts = createInbox<Attempt>()
  await gateway.work(
    queue,
    (job) =>
      new Promise((resolve, reject) => {
        attempts.push({ job, complete: resolve, fail: (reason) => reject(new Error(reason)) })
      }),
    { concurrency: 20, ...options },
  )
  return attempts
}

export function get(gateway: TestGateway, path: string, headers: Record<string, string> = {}) {
  return fetch(gateway.url + path, { headers: { ...gateway.headers, ...headers } })
}

/** POST /jobs with whatever body. */
export function postText(gateway: TestGateway, body: string | Buffer, type = 'application/json') {
  const headers = { ...gateway.headers, 'content-type': type }
  return fetch(`${gateway.url}/jobs`, { method: 'POST', headers, body })
}

export function postBatch({ url, headers }: TestGateway, jobs: readonly unknown[]) {
  return fetch(`${url}/jobs/batch`, {
    method: 'POST',
    headers: { ...headers, 'content-type': 'application/json' },
    body: JSON.stringify({ jobs }),
  })
}

/** POST /jobs. @returns the job of the 202 */
export async function submit(gateway: TestGateway, body: object): Promise<JobObject> {
  const response = await gateway.post(body)
  if (response.status !== 202)
    throw new Error(`Expected 202, got ${response.status} ${await response.text()}`)
  return jobIn(response)
}

export function cancel(gateway: TestGateway, id: string) {
  return fetch(`${gateway.url}/jobs/${id}/cancel`, { method: 'POST', headers: gateway.headers })
}

export function putCallback(gateway: TestGateway, id: string, body: unknown) {
  return fetch(`${gateway.url}/jobs/${id}/callback`, {
    method: 'PUT',
    headers: { ...gateway.headers, 'content-type': 'application/json' },
    body: JSON.stringify(body),
  })
}

/** Follows a job to its end. @returns its events */
export async function ended(gateway: TestGateway, id: string): Promise<Envelope[]> {
  const stream = await get(gateway, `/jobs/${id}/events`, { accept: 'application/x-ndjson' })
  return (await all(eventsIn(stream))).map(parse)
}

/** Asserts that an answer is the problem of a code as docs/PROTOCOL.md "Problems" has it. */
export async function isProblem(t: Test, response: Response, code: ProblemCode): Promise<ProblemObject> {
  const { status, title } = problems[code]
  t.equal(response.status, status, `status of ${code}`)
  t.match(response.headers.get('content-type'), /^application\/problem\+json/)
  const problem = (await response.json()) as ProblemObject
  t.match(problem, { type: `urn:quartet:problem:${code}`, title, status, code })
  return problem
}

/** Asserts a 422 with exactly these paths. */
export async function isInvalid(t: Test, response: Response, paths: readonly string[]): Promise<void> {
  const { errors, detail } = await isProblem(t, response, 'invalid')
  t.same([...new Set(errors?.map(({ path }) => path))].toSorted(), paths.toSorted())
  t.ok(errors?.every(({ message }) => message.length > 0))
  t.equal(detail?.startsWith(`${errors?.[0]?.path || 'the body'} ${errors?.[0]?.message}`), true)
}

/** What comes between separators in a streamed answer. Leaving the loop hangs up. */
export async function* piecesOf(response: Response, separator: string): AsyncGenerator<string> {
  let rest = ''
  for await (const chunk of response.body?.pipeThrough(new TextDecoderStream()) ?? []) {
    const pieces = (rest + chunk).split(separator)
    rest = pieces.pop() ?? ''
    yield* pieces
  }
  if (rest !== '') throw new Error(`Expected whole pieces, got ${JSON.stringify(rest)} at the end`)
}

/** The events in a streamed answer as text, SSE or NDJSON by its content type. Leaving the loop hangs up. */
export async function* eventsIn(response: Response): AsyncGenerator<string> {
  const prefix = response.headers.get('content-type')?.startsWith('text/event-stream') ? 'data: ' : '{'
  for await (const line of piecesOf(response, '\n')) {
    if (line.startsWith(prefix)) yield prefix === '{' ? line : line.slice(prefix.length)
  }
}

export async function all<T>(items: AsyncIterable<T>): Promise<T[]> {
  const list: T[] = []
  for await (const item of items) list.push(item)
  return list
}

/** Sends bytes over a TCP connection of its own. @returns all that comes back until the server closes it */
export async function exchange(url: string, request: string | Buffer): Promise<string> {
  const { port, hostname } = new URL(url)
  const socket = connect(Number(port), hostname)
  socket.write(request)
  return text(socket)
}

export interface Frame {
  op: string
  ref?: string | number
  job_id?: string
  seq?: number
  job?: JobObject
  event?: Envelope
  problem?: ProblemObject
  heartbeat_ms?: number
  max_subscriptions?: number
}

/** Opens a WebSocket. `next` is the next frame as text, `frame` the same parsed; `closed` the code of its close. */
export async function openSocket(
  t: Test,
  url: string,
  {
    init = true,
    token,
    protocols = ['quartet.v1'],
    origin,
    headers = {},
  }: {
    init?: boolean
    token?: string
    protocols?: string[]
    origin?: string
    headers?: Record<string, string>
  } = {},
) {
  const socket = new WebSocket(`${url.replace('http', 'ws')}/ws`, protocols, {
    headers,
    ...(origin && { origin }),
  })
  t.teardown(() => socket.terminate())
  const frames = createInbox<string>()
  socket.on('message', (data: Buffer) => frames.push(data.toString()))
  // What ends a socket is in its close.
  socket.on('error', () => undefined)
  const closed = once(socket, 'close').then(([code]) => code as number)
  await once(socket, 'open')

  const send = (frame: object | string) =>
    socket.send(typeof frame === 'string' ? frame : JSON.stringify(frame))
  const frame = async () => JSON.parse(await frames.next()) as Frame
  if (init) {
    send({ op: 'init', ...(token !== undefined && { token }) })
    const { op } = await frame()
    if (op !== 'ready') throw new Error(`Expected ready, got ${op}`)
  }
  return { socket, send, next: () => frames.next(), frame, closed, isQuiet: () => frames.isEmpty() }
}

export interface Delivered {
  readonly headers: Record<string, string>
  readonly body: string
}

/** A receiver of webhooks on loopback. @param answer 204 for each without it */
export async function startReceiver(
  t: Test,
  answer: (response: ServerResponse, delivered: Delivered) => void = (response) => {
    response.writeHead(204).end()
  },
) {
  const received = createInbox<Delivered>()
  const server = createServer((request, response) => {
    void receive(request, response)
  })
  async function receive(request: IncomingMessage, response: ServerResponse) {
    const delivered = { headers: request.headers as Record<string, string>, body: await text(request) }
    received.push(delivered)
    answer(response, delivered)
  }
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => {
    server.closeAllConnections()
    server.close()
  })
  const { port } = server.address() as AddressInfo
  return {
    url: `http://127.0.0.1:${port}/hook`,
    next: () => received.next(),
    isQuiet: () => received.isEmpty(),
  }
}
