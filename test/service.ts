import { once } from 'node:events'
import { createServer, type IncomingHttpHeaders, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { text } from 'node:stream/consumers'
import type { Test } from 'tap'
import { createInbox } from './conformance/clients.ts'

/** A call that a service was given, and that the test answers. */
export interface ReceivedCall {
  readonly method: string
  readonly path: string
  readonly headers: IncomingHttpHeaders
  /** As it came. */
  readonly body: string
  readonly response: ServerResponse
  /** Resolves when the connection is done with this call: answered, or hung up on. */
  readonly closed: Promise<unknown>
  /** Answers, with a body as JSON unless it is text. */
  answer(status: number, body?: unknown, headers?: Record<string, string>): void
}

/** A synchronous HTTP service on loopback. */
export interface TestService {
  /** `http://127.0.0.1:<port>` */
  readonly url: string
  /** How many calls have come. */
  calls(): number
  /** The next call that nobody has answered. */
  next(): Promise<ReceivedCall>
  /** What is done with each call from now on; null: they wait for {@link TestService.next}. */
  behave(behaviour: ((call: ReceivedCall) => void) | null): void
}

/** Starts a service that does as it is told, and ends it when the test ends. */
export async function startService(t: Pick<Test, 'teardown'>): Promise<TestService> {
  const inbox = createInbox<ReceivedCall>()
  let behaviour: ((call: ReceivedCall) => void) | null = null
  let calls = 0
  const server = createServer((request, response) => {
    // Or hung up on before all of it has come.
    receive(request, response).catch(() => undefined)
  })
  // A connection that it closes just when a call comes would be a failure that no test is about.
  server.keepAliveTimeout = 600_000
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => {
    server.close()
    server.closeAllConnections()
  })

  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    calls: () => calls,
    next: () => inbox.next(),
    behave(next) {
      behaviour = next
    },
  }

  async function receive(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const closed = once(
      response.on('error', () => undefined),
      'close',
    )
    const body = await text(request)
    calls += 1
    const { method = '', url: path = '', headers } = request
    const call = { method, path, headers, body, response, closed, answer: answerTo(response) }
    if (behaviour) behaviour(call)
    else inbox.push(call)
  }
}

function answerTo(response: ServerResponse): ReceivedCall['answer'] {
  return (status, body, headers = {}) => {
    const isText = typeof body === 'string' || Buffer.isBuffer(body)
    const content = isText || body === undefined ? body : JSON.stringify(body)
    response.writeHead(status, { 'content-type': 'application/json', ...headers }).end(content)
  }
}
