import websocket from '@fastify/websocket'
import {
  fastify,
  LogController,
  type FastifyBaseLogger,
  type FastifyInstance,
  type FastifyReply,
} from 'fastify'
import type { Redis } from 'ioredis'
import { pino } from 'pino'
import { request as send } from 'undici'
import { createQueues, isTerminal, types, type Queues, type Type } from './queues.ts'

interface JobRequest {
  readonly type: Type
  readonly input: object
  readonly callback_url?: string
}

const jobRequest = {
  type: 'object',
  required: ['type', 'input'],
  additionalProperties: false,
  properties: {
    type: { enum: types },
    input: { type: 'object' },
    callback_url: { type: 'string', format: 'uri', maxLength: 2_048 },
  },
}

/**
 * A job gateway on Fastify and BullMQ, made with care and without more than it takes: no journal, so nothing can be
 * resumed; listeners in this process only; a webhook is tried once. It says what Quartet says, as far as it has it, so
 * that one client serves both.
 */
export async function buildApp({ url, redis }: { url: string; redis: Redis }): Promise<FastifyInstance> {
  const queues = await createQueues(url, redis)
  const loggerInstance: FastifyBaseLogger = pino({ level: 'warn' })
  const app = fastify({
    loggerInstance,
    logController: new LogController({ disableRequestLogging: true }),
  })
  await app.register(websocket)

  app.post<{ Body: JobRequest }>('/jobs', { schema: { body: jobRequest } }, async (request, reply) => {
    const { type, input, callback_url: callbackUrl } = request.body
    const id = queues.newId()
    if (callbackUrl !== undefined) callBack(queues, id, callbackUrl)
    if (request.headers.accept !== 'text/event-stream') {
      await queues.add(type, id, input)
      return reply.code(202).header('location', `/jobs/${id}`).send(queued(id, type))
    }
    // Whoever listens only after the job is added may miss its end.
    const end = stream(reply, queues, id)
    try {
      await queues.add(type, id, input)
    } catch (error) {
      request.log.error(error)
      end()
    }
    return reply
  })

  app.get<{ Params: { id: string } }>('/jobs/:id', async (request, reply) => {
    const job = await queues.find(request.params.id)
    if (!job) return reply.code(404).send({ error: 'There is no such job' })
    const status = await job.getState()
    return { job_id: job.id, type: job.name, status, result: job.returnvalue as unknown }
  })

  app.get<{ Params: { id: string } }>('/jobs/:id/events', async (request, reply) => {
    const { id } = request.params
    const job = await queues.find(id)
    if (!job) return reply.code(404).send({ error: 'There is no such job' })
    const end = stream(reply, queues, id)
    if (await job.isCompleted()) end()
    return reply
  })

  app.get('/ws', { websocket: true }, (socket) => {
    const ends = new Set<() => void>()
    socket.on('message', (data: Buffer) => {
      const message = JSON.parse(data.toString()) as {
        op: string
        ref?: number
        job_id?: string
        job?: JobRequest
      }
      if (message.op === 'init') socket.send('{"op":"ready"}')
      if (message.op === 'subscribe' && message.job_id !== undefined) {
        follow(message.job_id)
        socket.send(JSON.stringify({ op: 'subscribed', ref: message.ref, job_id: message.job_id }))
      }
      if (message.op === 'submit' && message.job) {
        const { type, input } = message.job
        const id = queues.newId()
        follow(id)
        queues.add(type, id, input)?.then(
          () => socket.send(JSON.stringify({ op: 'accepted', ref: message.ref, job: queued(id, type) })),
          (error: unknown) =>
            socket.send(JSON.stringify({ op: 'error', ref: message.ref, error: String(error) })),
        )
      }
    })
    socket.on('close', () => {
      for (const end of ends) end()
    })

    function follow(id: string): void {
      const end = queues.listen(id, (event, text) => {
        socket.send(`{"op":"event","event":${text}}`)
        if (isTerminal(event)) ends.delete(end)
      })
      ends.add(end)
    }
  })
  return app
}

function queued(id: string, type: Type): object {
  return { job_id: id, type, status: 'queued' }
}

/** Answers with the job's events from now on. @returns ends it */
function stream(reply: FastifyReply, queues: Queues, id: string): () => void {
  reply.hijack()
  const response = reply.raw
  response.writeHead(200, {
    'content-type': 'text/event-stream',
    'cache-control': 'no-store',
    location: `/jobs/${id}`,
  })
  response.write(`event: job.queued\ndata: ${JSON.stringify({ job_id: id, status: 'queued' })}\n\n`)
  const stop = queues.listen(id, (event, text) => {
    response.write(`event: ${event}\ndata: ${text}\n\n`)
    if (isTerminal(event)) response.end()
  })
  response.on('close', stop)
  return () => response.end()
}

/** One try, when the job has completed. */
function callBack(queues: Queues, id: string, url: string): void {
  queues.listen(id, (event, body) => {
    if (event !== 'job.completed') return
    send(url, { method: 'POST', headers: { 'content-type': 'application/json' }, body })
      .then((answer) => answer.body.dump())
      .catch((error: unknown) => console.error(error))
  })
}
