/**
 * WebSocket: submit and listen on one connection. Should it be cut, connect again and subscribe after the
 * last event seen; the idempotency key makes it safe to submit again what was not yet accepted.
 */
import { randomUUID } from 'node:crypto'
import { WebSocket } from 'ws'
import { baseUrl, fail, finalJob, finish, jobRequest, key, printEvent } from './job.ts'
import type { Job, JobEvent, Problem } from './job.ts'

type Frame =
  | { op: 'ready'; heartbeat_ms: number }
  | { op: 'accepted'; job: Job }
  | { op: 'subscribed' }
  | { op: 'event'; event: JobEvent }
  | { op: 'end' }
  | { op: 'error'; problem: Problem }

const url = new URL('/ws', baseUrl.replace(/^http/, 'ws'))
const submit = { op: 'submit', ref: 1, job: jobRequest, idempotency_key: randomUUID() }
let wasReady = false
let jobId: string | undefined
let seq = 0
let job: Job | undefined
connect()

function connect(): void {
  const socket = new WebSocket(url, 'quartet.v1')
  // The gateway pings. When two in a row are missing, the connection is lost, though nobody said so.
  const silence = setTimeout(() => socket.terminate(), 60_000)

  socket.on('open', () => socket.send(JSON.stringify({ op: 'init', ...(key && { token: key }) })))
  socket.on('ping', () => silence.refresh())
  socket.on('message', (data: Buffer) => receive(socket, JSON.parse(data.toString()) as Frame))
  socket.on('error', ({ message }) => console.error(message))
  socket.on('close', (code, reason) => {
    clearTimeout(silence)
    if (job) return finish(job)
    // 4400 to 4499: it would not go better the next time. Else at a time of its own, as others were cut at this moment.
    if (wasReady && (code < 4400 || code > 4499)) return setTimeout(connect, 500 + Math.random() * 4_500)
    console.error(`closed: ${code} ${reason.toString()}`)
    process.exitCode = 1
  })
}

function receive(socket: WebSocket, frame: Frame): void {
  switch (frame.op) {
    case 'ready': {
      wasReady = true
      const subscribe = { op: 'subscribe', ref: 2, job_id: jobId, after: seq }
      socket.send(JSON.stringify(jobId ? subscribe : submit))
      break
    }
    case 'accepted':
      jobId = frame.job.job_id
      break
    case 'event':
      seq = frame.event.seq
      printEvent(frame.event)
      job = finalJob(frame.event)
      break
    case 'end':
      socket.close(1000)
      break
    case 'error':
      fail(frame.problem)
  }
}
