import { lookup as systemLookup } from 'node:dns'
import { once } from 'node:events'
import { createServer as createHttpServer, type ServerResponse } from 'node:http'
import { createServer, type AddressInfo } from 'node:net'
import t, { type Test } from 'tap'
import { createReturnAddressGuard } from '../src/deliver/return-address.ts'
import { createWebhookSender } from '../src/deliver/send-webhook.ts'
import { generateSecret, parseSigningKeys } from '../src/deliver/signature.ts'
import { startDnsServer } from './dns-server.ts'
import { startForwardProxy } from './forward-proxy.ts'
import { spawnProcess } from './helper.ts'

/*
 * Server-side request forgery: whatever a client gives as return address, nothing of this network is connected to, by
 * the count of a listener on every address of this machine.
 */

const PUBLIC_V4 = '93.184.215.14'
const PUBLIC_V6 = '2606:2800:21f:cb07:6820:80da:af6b:8b2c'

/** Listens on every address of this machine. */
async function startListener(t: Test) {
  /** The addresses that were connected to. */
  const reached: (string | undefined)[] = []
  const server = createServer((socket) => {
    reached.push(socket.localAddress)
    socket.destroy()
  })
  server.listen(0)
  await once(server, 'listening')
  t.teardown(() => server.close())
  return { port: (server.address() as AddressInfo).port, reached }
}

/** A gateway's way out: the check when a return address is given, and `send` for deliveries and redeliveries. */
function startSender(t: Test, options: Partial<Parameters<typeof createReturnAddressGuard>[0]> = {}) {
  const guard = createReturnAddressGuard({ allow: [], lookup: systemLookup, ...options })
  t.teardown(() => guard.close())
  const keys = parseSigningKeys(generateSecret())
  const { send } = createWebhookSender({ dispatcher: guard.dispatcher, keys, userAgent: 'quartet-test/1' })
  return {
    check: guard.check,
    send: (url: string) => send({ tenant: 'default', url, id: 'job.1', body: '{}' }),
  }
}

/** A receiver on 127.0.0.1 alone, which tests allow. */
async function startReceiver(
  t: Test,
  answer: (response: ServerResponse) => void = (response) => response.end(),
) {
  let requests = 0
  const server = createHttpServer((_request, response) => {
    requests++
    answer(response)
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => server.close())
  return { port: (server.address() as AddressInfo).port, requests: () => requests }
}

t.test('no spelling of a private address is ever connected to', async (t) => {
  const { port, reached } = await startListener(t)
  const { check, send } = startSender(t)
  const spellings = `
    127.0.0.1 127.0.0.1. 127.1 127.0.1 2130706433 0177.0.0.1 017700000001 0x7f.0.0.1 0x7f.1 0x7f000001 0X7F000001
    127.8.9.10 0 0x0 00 0.0.0.0 %31%32%37.0.0.1 ①②⑦.0.0.1 127。0。0。1 [::] [::1] [0:0:0:0:0:0:0:1] [::0001]
    [::ffff:127.0.0.1] [::ffff:7f00:1] [0:0:0:0:0:ffff:127.0.0.1] [::ffff:0:127.0.0.1] [::127.0.0.1] [::7f00:1]
    [64:ff9b::127.0.0.1] [64:ff9b::7f00:1] [64:ff9b:1::7f00:1] [64:ff9b:1:7f00:0:100::] [2002:7f00:1::1]
    [2001:0:4136:e378:8000:63bf:80ff:fffe] [fe80::5efe:127.0.0.1] [2600::5efe:127.0.0.1] [2600::200:5efe:7f00:1]
    localhost LOCALHOST localhost. api.localhost api.localhost. ⓛocalhost`
  for (const host of spellings.trim().split(/\s+/)) {
    for (const scheme of ['http', 'https']) {
      const url = `${scheme}://${host}:${port}/`
      const refused = / address.*; QUARTET_CALLBACK_ALLOW=/
      t.match(await check(url), { status: 'refused', reason: refused }, `check ${url}`)
      t.match(await send(url), { status: 'blocked', error: refused }, `send ${url}`)
    }
  }
  t.strictSame(reached, [])
})

t.test('a name with a public and a private address is refused, in whatever order they come', async (t) => {
  const { port, reached } = await startListener(t)
  const { lookup } = await startDnsServer(t, {
    'v4.example': [[PUBLIC_V4, '127.0.0.1']],
    'first.example': [['127.0.0.1', PUBLIC_V4]],
    'v6.example': [[PUBLIC_V6, '::1']],
    'both.example': [[PUBLIC_V4, '::1']],
    'mapped.example': [[PUBLIC_V4, '::ffff:127.0.0.1']],
    'alias.example': [['inside.example', '127.0.0.1']],
    'chain.example': [['one.example', 'two.example', PUBLIC_V4, '::1']],
    'metadata.example': [['169.254.169.254']],
  })
  const { check, send } = startSender(t, { lookup })
  const names = 'v4 first v6 both mapped alias chain metadata'.split(' ')
  for (const host of names.map((name) => `${name}.example`)) {
    const refused = new RegExp(
      `^${host} resolves to \\S+, a (loopback|link-local) address; QUARTET_CALLBACK_ALLOW=`,
    )
    t.match(await check(`http://${host}:${port}/`), { status: 'refused', reason: refused })
    t.match(await send(`http://${host}:${port}/`), { status: 'blocked', error: refused })
  }
  t.strictSame(reached, [])
})

t.test(
  'where there are tenants a refusal does not tell what a name of this network resolves to',
  async (t) => {
    const { port, reached } = await startListener(t)
    const { lookup } = await startDnsServer(t, { 'db.example': [['127.0.0.1']], 'v6.example': [['::1']] })
    const { check, send } = startSender(t, { lookup, isDiscreet: true })
    for (const host of ['db.example', 'v6.example', 'unknown.example']) {
      const reason = `${host} does not resolve to public addresses`
      t.strictSame(await check(`http://${host}:${port}/`), { status: 'refused', reason })
    }
    t.match(await send(`http://db.example:${port}/`), {
      status: 'blocked',
      error: 'db.example does not resolve to public addresses',
    })
    t.match(await check(`http://127.0.0.1:${port}/`), { reason: /^127\.0\.0\.1 is a loopback address/ })
    t.strictSame(reached, [])
  },
)

t.test(
  'a name that is public when it is given and private when it is used is blocked, each time',
  async (t) => {
    const { port, reached } = await startListener(t)
    const zone = Object.fromEntries(
      ['127.0.0.1', '::1', '::ffff:127.0.0.1'].map((address, index) => [
        `n${index}.example`,
        [[PUBLIC_V4], [address]],
      ]),
    )
    const { lookup } = await startDnsServer(t, {
      ...zone,
      'alias.example': [[PUBLIC_V4], ['inside.example', '127.0.0.1']],
    })
    const { check, send } = startSender(t, { lookup })
    for (const host of ['n0.example', 'n1.example', 'n2.example', 'alias.example']) {
      const url = `http://${host}:${port}/`
      t.match(await check(url), { status: 'allowed' }, host)
      t.match(
        await send(url),
        { status: 'blocked', error: / resolves to \S+, a loopback address/ },
        'delivery',
      )
      t.match(await send(url), { status: 'blocked' }, 'redelivery')
    }
    t.strictSame(reached, [])
  },
)

t.test(
  'the addresses that were judged are the ones that are connected to: a name is asked for once',
  async (t) => {
    const receiver = await startReceiver(t)
    const inside = await startListener(t)
    // What is allowed stands for what is public: a first answer that is good, and all later ones that are not.
    const { lookup, questions } = await startDnsServer(t, {
      'rebinding.example': [['127.0.0.1'], ['::1', '127.0.0.2']],
    })
    const { send } = startSender(t, { allow: ['127.0.0.1'], lookup })
    t.match(await send(`http://rebinding.example:${receiver.port}/`), { status: 'delivered' })
    t.equal(questions(), 1)
    t.equal(receiver.requests(), 1)
    t.match(await send(`http://rebinding.example:${inside.port}/`), { status: 'blocked' })
    t.strictSame(inside.reached, [])
  },
)

t.test('a redirect to what is private is not followed', async (t) => {
  const { port, reached } = await startListener(t)
  const { send } = startSender(t, { allow: ['127.0.0.1'] })
  for (const location of [
    `http://127.0.0.1:${port}/`,
    `//[::1]:${port}/`,
    'http://169.254.169.254/latest/meta-data',
  ]) {
    for (const statusCode of [300, 301, 302, 303, 307, 308]) {
      const receiver = await startReceiver(t, (response) =>
        response.writeHead(statusCode, { location }).end(),
      )
      const outcome = await send(`http://127.0.0.1:${receiver.port}/`)
      t.match(outcome, { status: 'failed', reason: 'redirect', statusCode })
      t.equal(receiver.requests(), 1)
    }
  }
  t.strictSame(reached, [])
})

t.test('a proxy of the environment is not asked, with one of our own or without', async (t) => {
  const listener = await startListener(t)
  const receiver = await startReceiver(t)
  const own = await startForwardProxy(t)
  const url = `http://127.0.0.1:${listener.port}`
  const names = ['HTTP_PROXY', 'HTTPS_PROXY', 'ALL_PROXY'].flatMap((name) => [name, name.toLowerCase()])
  const env = { ...Object.fromEntries(names.map((name) => [name, url])), NODE_USE_ENV_PROXY: '1' }
  for (const options of [[], [`--proxy=${own.url}`]]) {
    const args = ['node', '--import', 'tsx', 'test/send-webhooks.ts', ...options]
    const urls = [`http://localhost:${receiver.port}/`, 'http://10.0.0.1/']
    const sent = spawnProcess(t, [...args, ...urls], { env })
    const [, json = ''] = await sent.waitForLine(/^outcomes (.*)$/)
    t.match(JSON.parse(json), [{ status: 'delivered' }, { status: 'blocked' }])
  }
  t.equal(receiver.requests(), 2)
  t.equal(own.asked.length, 1)
  t.strictSame(listener.reached, [])
})
