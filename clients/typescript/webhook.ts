/**
 * Webhook: the gateway POSTs each event to us. Check that it is the gateway (verify.ts), answer with a 2xx, and expect
 * to get the same event again: an answer may be lost on its way. docs/WEBHOOKS.md says more.
 */
import { once } from 'node:events'
import { readFile } from 'node:fs/promises'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { buffer } from 'node:stream/consumers'
import { finalJob, finish, postJob, printEvent, type JobEvent } from './job.ts'
import { createVerifier, WebhookError } from './verify.ts'

// A gateway with a private Redis keeps its secret in this file.
const keys = process.env['QUARTET_WEBHOOK_SECRET'] ?? (await readFile('.quartet/webhook-secret', 'utf8'))
const verify = createVerifier(keys)
const seen = new Set<string>()

const server = createServer((request, response) => {
  receive(request, response).catch((error: Error) => {
    console.error(`refused: ${error.message}`)
    response.writeHead(error instanceof WebhookError ? 401 : 400).end()
  })
})
server.listen(Number(process.env['WEBHOOK_PORT'] ?? 0), '127.0.0.1')
await once(server, 'listening')
const { port } = server.address() as AddressInfo
await postJob({}, { callback_url: `http://127.0.0.1:${port}/quartet`, callback_events: ['*'] })

async function receive(request: IncomingMessage, response: ServerResponse): Promise<void> {
  const body = await buffer(request)
  const id = verify(request.headers, body)
  if (!seen.has(id)) handle(JSON.parse(body.toString()) as JobEvent)
  seen.add(id)
  response.writeHead(204, { connection: server.listening ? 'keep-alive' : 'close' }).end()
}

function handle(event: JobEvent): void {
  printEvent(event)
  const job = finalJob(event)
  if (!job) return
  finish(job)
  server.close()
}
