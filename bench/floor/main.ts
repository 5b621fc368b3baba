import type { AddressInfo } from 'node:net'
import { randomUUID } from 'node:crypto'
import { Queue } from 'bullmq'
import { fastify, LogController } from 'fastify'
import { Redis } from 'ioredis'
import { defaultJobOptions } from '../baseline/queues.ts'

/*
 * The least that accepts a job on Fastify and BullMQ: what comes in one turn of the event loop is added by one `addBulk`, which
 * is BullMQ's fastest way in. Nothing is kept of a job, and nobody hears what becomes of it: it does not even listen.
 * `REDIS_URL` and `PORT` are all it is told.
 */

interface Waiting {
  readonly name: string
  readonly data: unknown
  readonly opts: { readonly jobId: string }
  readonly resolve: () => void
  readonly reject: (error: unknown) => void
}

const redis = new Redis(process.env['REDIS_URL'] ?? '', { maxRetriesPerRequest: null })
const queue = new Queue('echo', { connection: redis, defaultJobOptions })
let waiting: Waiting[] = []

const body = {
  type: 'object',
  required: ['type', 'input'],
  additionalProperties: false,
  properties: { type: { const: 'echo' }, input: { type: 'object' } },
}
const app = fastify({ logController: new LogController({ disableRequestLogging: true }) })
app.post<{ Body: { type: string; input: object } }>('/jobs', { schema: { body } }, async (request, reply) => {
  const id = randomUUID()
  await add(request.body.type, id, request.body.input)
  return reply
    .code(202)
    .header('location', `/jobs/${id}`)
    .send({ job_id: id, type: request.body.type, status: 'queued' })
})
app.get<{ Params: { id: string } }>('/jobs/:id', async (request, reply) => {
  const job = await queue.getJob(request.params.id)
  return job ? { job_id: job.id } : reply.code(404).send()
})
await app.listen({ port: Number(process.env['PORT'] ?? 0), host: '127.0.0.1', backlog: 4_096 })
console.log(`listens on http://127.0.0.1:${(app.server.address() as AddressInfo).port}`)

function add(name: string, jobId: string, data: unknown): Promise<void> {
  return new Promise((resolve, reject) => {
    if (waiting.length === 0) setImmediate(() => void addAll())
    waiting.push({ name, data, opts: { jobId }, resolve, reject })
  })
}

async function addAll(): Promise<void> {
  const all = waiting
  waiting = []
  try {
    await queue.addBulk(all.map(({ name, data, opts }) => ({ name, data, opts })))
    for (const { resolve } of all) resolve()
  } catch (error) {
    for (const { reject } of all) reject(error)
  }
}
