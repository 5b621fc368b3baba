import { once } from 'node:events'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import { connect, createServer as createTcpServer, type AddressInfo, type Server } from 'node:net'
import { text } from 'node:stream/consumers'
import { createServer as createTlsServer, type TLSSocket } from 'node:tls'
import { Webhook } from 'standardwebhooks'
import t, { type Test } from 'tap'
import { createReturnAddressGuard } from '../src/deliver/return-address.ts'
import { createWebhookSender } from '../src/deliver/send-webhook.ts'
import { generateSecret, parseSigningKeys } from '../src/deliver/signature.ts'
import { spawnProcess } from './helper.ts'
import { testTls } from './hostile-receivers.ts'

const message = {
  tenant: 'default',
  id: '0199a1b2-0000-7000-8000-000000000000.7',
  body: '{"seq":7,"type":"job.completed"}',
}

type Options = Partial<Parameters<typeof createWebhookSender>[0]> & { allow?: string[] }

function senderFor(t: Test, { allow = ['127.0.0.0/8'], ...options }: Options = {}) {
  const guard = createReturnAddressGuard({ allow })
  t.teardown(() => guard.close())
  const keys = parseSigningKeys(generateSecret())
  return createWebhookSender({
    dispatcher: guard.dispatcher,
    keys,
    userAgent: 'quartet-test/1',
    ...options,
  })
}

async function listen(t: Test, server: Server) {
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => server.close())
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`
}

/** An HTTP receiver on loopback. The request is read to its end before `answer` is called. */
async function startReceiver(t: Test, answer: (response: ServerResponse, request: IncomingMessage) => void) {
  const received: { headers: IncomingMessage['headers']; method: string; url: string; body: string }[] = []
  const server = createServer((request, response) => {
    void accept(request, response)
  })
  async function accept(request: IncomingMessage, response: ServerResponse) {
    const { headers, method = '', url = '' } = request
    received.push({ headers, method, url, body: await text(request) })
    answer(response, request)
  }
  t.teardown(() => server.closeAllConnections())
  return { url: await listen(t, server), received }
}

t.test('a webhook is the event, signed so that the reference library verifies it', async (t) => {
  const { url, received } = await startReceiver(t, (response) => response.writeHead(204).end())
  const secret = generateSecret()
  const { send } = senderFor(t, { keys: parseSigningKeys(secret) })
  const outcome = await send({ url: `${url}/hook?a=1#part`, ...message })
  t.match(outcome, { status: 'delivered', statusCode: 204, durationMs: Number })
  const [first] = received
  t.match(first, { method: 'POST', url: '/hook?a=1', body: message.body })
  t.match(first?.headers, {
    'content-type': 'application/json',
    'user-agent': 'quartet-test/1',
    'webhook-id': message.id,
  })
  t.notOk(first?.headers['accept-encoding'], 'no compressed answer is asked for')
  t.strictSame(
    new Webhook(secret).verify(first?.body ?? '', first?.headers as Record<string, string>),
    JSON.parse(message.body),
  )
})

t.test('while a secret rotates, receivers with either secret verify a webhook', async (t) => {
  const { url, received } = await startReceiver(t, (response) => response.end())
  const rotating = [generateSecret(), generateSecret()]
  await senderFor(t, { keys: parseSigningKeys(rotating.join(',')) }).send({ url, ...message })
  for (const secret of rotating) {
    t.ok(new Webhook(secret).verify(message.body, received[0]?.headers as Record<string, string>))
  }
})

t.test('each try is stamped with its own time in seconds, under the same id', async (t) => {
  const { url, received } = await startReceiver(t, (response) => response.end())
  const { send } = senderFor(t)
  await send({ url, ...message, now: 1_700_000_000_999 })
  await send({ url, ...message, now: 1_700_000_005_000 })
  t.strictSame(
    received.map(({ headers }) => [headers['webhook-id'], headers['webhook-timestamp']]),
    [
      [message.id, '1700000000'],
      [message.id, '1700000005'],
    ],
  )
  t.not(received[0]?.headers['webhook-signature'], received[1]?.headers['webhook-signature'])
})

t.test('connections are used again after a short answer', async (t) => {
  const ports = new Set<number | undefined>()
  const { url } = await startReceiver(t, (response, request) => {
    ports.add(request.socket.remotePort)
    response.end('thank you')
  })
  const { send } = senderFor(t)
  for (let i = 0; i < 10; i++) t.match(await send({ url, ...message }), { status: 'delivered' })
  t.ok(ports.size < 5, `10 webhooks took ${ports.size} connections`)
})

t.test('other statuses are failures that tell the status', async (t) => {
  for (const statusCode of [400, 404, 500, 503]) {
    const { url } = await startReceiver(t, (response) => response.writeHead(statusCode).end())
    const outcome = await senderFor(t).send({ url, ...message })
    t.match(outcome, {
      status: 'failed',
      reason: 'http_status',
      statusCode,
      error: `Expected a 2xx status, got ${statusCode}`,
    })
    t.notOk('retryAfterMs' in outcome)
  }
})

t.test('Retry-After is told in milliseconds, from seconds and from every form of date', async (t) => {
  const now = Date.parse('1994-11-06T08:49:00Z')
  const cases = [
    [429, '120', 120_000],
    [503, '0', 0],
    [429, 'Sun, 06 Nov 1994 08:49:37 GMT', 37_000],
    [503, 'Sunday, 06-Nov-94 08:49:37 GMT', 37_000],
    [503, 'Sun Nov  6 08:49:37 1994', 37_000],
    [429, 'Sun, 06 Nov 1994 08:00:00 GMT', 0],
    [429, 'soon', undefined],
    [429, '-1', undefined],
    [429, '1.5', undefined],
    [429, '99999999999999999999', undefined],
    [500, '120', undefined],
  ] as const
  for (const [statusCode, value, retryAfterMs] of cases) {
    const { url } = await startReceiver(t, (response) =>
      response.writeHead(statusCode, { 'retry-after': value }).end(),
    )
    const outcome = await senderFor(t).send({ url, ...message, now })
    t.match(outcome, { status: 'failed', reason: 'http_status', statusCode }, `${statusCode} ${value}`)
    t.equal(
      'retryAfterMs' in outcome ? outcome.retryAfterMs : undefined,
      retryAfterMs,
      `${statusCode} ${value}`,
    )
  }
})

t.test('a name that never resolves is a timeout, even before the connection gives up', async (t) => {
  const guard = createReturnAddressGuard({ allow: [], lookup: () => {} })
  t.teardown(() => guard.close())
  const { send } = senderFor(t, { dispatcher: guard.dispatcher, timeoutMs: 200 })
  const outcome = await send({ url: 'http://slow.example/', ...message })
  t.match(outcome, { status: 'failed', reason: 'timeout' })
})

t.test(
  'over TLS a receiver is named without its last dot, and what breaks later is of TLS too',
  async (t) => {
    const names: unknown[] = []
    let isAsked = false
    const receiver = createTlsServer(testTls, (socket) => {
      names.push((socket as TLSSocket & { servername?: string }).servername)
      socket.on('error', () => {})
      socket.once('data', () => {
        isAsked = true
        socket.write('HTTP/1.1 204 No Content\r\n\r\n')
      })
    })
    const url = await listen(t, receiver)
    // Between the two, and turns over one bit of the answer.
    const breaker = createTcpServer((socket) => {
      const onward = connect(Number(new URL(url).port), '127.0.0.1', () => (isAsked = false))
      for (const end of [socket, onward]) end.on('error', () => {})
      socket.pipe(onward)
      onward.on('data', (data) => {
        if (isAsked) data.writeUInt8(data.readUInt8(9) ^ 1, 9)
        socket.write(data)
      })
      socket.on('close', () => onward.destroy())
    })
    const urls = [url, await listen(t, breaker)].map((url) =>
      url.replace('http://127.0.0.1', 'https://localhost.'),
    )
    for (const [index, expected] of [
      { status: 'delivered', statusCode: 204 },
      { status: 'failed', reason: 'tls', error: /^Expected a TLS connection, got decryption failed/ },
    ].entries()) {
      const sent = spawnProcess(t, ['node', '--import', 'tsx', 'test/send-webhooks.ts', urls[index] ?? ''], {
        env: { NODE_EXTRA_CA_CERTS: 'test/fixtures/localhost.crt' },
      })
      const [, json = ''] = await sent.waitForLine(/^outcomes (.*)$/)
      t.match(JSON.parse(json), [expected])
    }
    t.strictSame(names, ['localhost', 'localhost'])
  },
)

t.test('a port where nobody listens is a network failure that names every address tried', async (t) => {
  const server = createTcpServer()
  const url = await listen(t, server)
  server.close()
  await once(server, 'close')
  const { send } = senderFor(t, { allow: ['127.0.0.0/8', '::1'] })
  t.match(await send({ url, ...message }), { status: 'failed', reason: 'network', error: /ECONNREFUSED 127/ })
  t.match(await send({ url: url.replace('127.0.0.1', 'localhost'), ...message }), {
    status: 'failed',
    reason: 'network',
    error: /127\.0\.0\.1:\d+; .*::1/,
  })
})

t.test('an address that is not allowed is blocked, and hears nothing', async (t) => {
  const { url, received } = await startReceiver(t, (response) => response.end())
  t.match(await senderFor(t, { allow: [] }).send({ url, ...message }), {
    status: 'blocked',
    error: '127.0.0.1 is a loopback address; QUARTET_CALLBACK_ALLOW=127.0.0.1/32 allows it',
    durationMs: Number,
  })
  t.equal(received.length, 0)
})

t.test('an error is kept short', async (t) => {
  const host = `${'a'.repeat(60)}.`.repeat(4) + 'localhost'
  const outcome = await senderFor(t, { allow: [] }).send({ url: `http://${host}/`, ...message })
  t.match(outcome, { status: 'blocked', error: /^(a{60}\.){4}localhost resolves to .*\.\.\.$/ })
  t.equal('error' in outcome && outcome.error.length, 300)
})

t.test('what is no http URL is blocked', async (t) => {
  const { send } = senderFor(t)
  for (const url of ['ftp://127.0.0.1/', '/hook']) {
    t.match(await send({ url, ...message }), {
      status: 'blocked',
      error: /^Expected an http or https URL, got /,
    })
  }
})

t.test('user info in a URL is not sent', async (t) => {
  const { url, received } = await startReceiver(t, (response) => response.end())
  await senderFor(t).send({ url: url.replace('//', '//user:secret@'), ...message })
  t.notOk(received[0]?.headers.authorization)
})

t.test('a closed dispatcher is a fault of our own, not an outcome', async (t) => {
  const guard = createReturnAddressGuard({ allow: [] })
  const { send } = senderFor(t, { dispatcher: guard.dispatcher })
  await guard.close()
  await t.rejects(send({ url: 'https://example.com/', ...message }), { code: 'UND_ERR_DESTROYED' })
})

t.test('a webhook is signed with the keys of its tenant, and not sent where there are none', async (t) => {
  const { url, received } = await startReceiver(t, (response) => response.end())
  const [acme, umbrella] = [generateSecret(), generateSecret()]
  const { send } = senderFor(t, { keys: parseSigningKeys(`acme:${acme},umbrella:${umbrella}`) })
  t.match(await send({ url, ...message, tenant: 'umbrella' }), { status: 'delivered' })
  const headers = received[0]?.headers as Record<string, string>
  t.ok(new Webhook(umbrella).verify(message.body, headers))
  t.throws(() => new Webhook(acme).verify(message.body, headers))
  t.match(await send({ url, ...message }), {
    status: 'failed',
    reason: 'no_key',
    error: 'Expected a key to sign with, got none for this tenant',
    durationMs: Number,
  })
  t.equal(received.length, 1)
})
