/**
 * Webhook: the gateway POSTs each event to us. Check that it is the gateway (https://www.standardwebhooks.com),
 * answer with a 2xx, and expect to get the same event again: an answer may be lost on its way.
 */
import { createHmac, timingSafeEqual } from 'node:crypto'
import { once } from 'node:events'
import { readFile } from 'node:fs/promises'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { buffer } from 'node:stream/consumers'
import { finalJob, finish, postJob, printEvent, type JobEvent } from './job.ts'

const toleranceS = 300

// Several while one is rotated, separated by commas. A gateway with a private Redis keeps its own in this file.
const secrets = process.env['QUARTET_WEBHOOK_SECRET'] ?? (await readFile('.quartet/webhook-secret', 'utf8'))
const keys = secrets.split(',').map((secret) => Buffer.from(secret.trim().replace('whsec_', ''), 'base64'))
const seen = new Set<string>()

const server = createServer((request, response) => {
  receive(request, response).catch((error: Error) => response.writeHead(400).end(error.message))
})
server.listen(Number(process.env['WEBHOOK_PORT'] ?? 0), '127.0.0.1')
await once(server, 'listening')
const { port } = server.address() as AddressInfo
await postJob({}, { callback_url: `http://127.0.0.1:${port}/quartet`, callback_events: ['*'] })

async function receive(request: IncomingMessage, response: ServerResponse): Promise<void> {
  const body = await buffer(request)
  const {
    'webhook-id': id,
    'webhook-timestamp': timestamp,
    'webhook-signature': signatures,
  } = request.headers
  if (!isGenuine(String(id), Number(timestamp), String(signatures), body)) {
    console.error('refused what does not have the signature of our gateway')
    response.writeHead(401).end()
    return
  }
  if (!seen.has(String(id))) handle(JSON.parse(body.toString()) as JobEvent)
  seen.add(String(id))
  response.writeHead(204, { connection: server.listening ? 'keep-alive' : 'close' }).end()
}

function handle(event: JobEvent): void {
  printEvent(event)
  const job = finalJob(event)
  if (!job) return
  finish(job)
  server.close()
}

/** `body` is what was signed: the bytes as they came, before anybody parses them. */
function isGenuine(id: string, timestamp: number, signatures: string, body: Buffer): boolean {
  // An old message that is sent again by someone else has a good signature, too.
  if (!(Math.abs(Date.now() / 1_000 - timestamp) <= toleranceS)) return false
  const given = signatures.split(' ').filter((each) => each.startsWith('v1,'))
  return keys.some((key) => {
    const expected = createHmac('sha256', key).update(`${id}.${timestamp}.`).update(body).digest()
    return given.some((each) => isSame(Buffer.from(each.slice('v1,'.length), 'base64'), expected))
  })
}

function isSame(given: Buffer, expected: Buffer): boolean {
  return given.length === expected.length && timingSafeEqual(given, expected)
}
