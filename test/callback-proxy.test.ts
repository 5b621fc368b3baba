import { EventEmitter, once } from 'node:events'
import { createServer, type AddressInfo, type Socket } from 'node:net'
import t, { type Test } from 'tap'
import { createReturnAddressGuard } from '../src/deliver/return-address.ts'
import { createWebhookSender } from '../src/deliver/send-webhook.ts'
import { generateSecret, parseSigningKeys } from '../src/deliver/signature.ts'
import { startDnsServer } from './dns-server.ts'
import { startForwardProxy } from './forward-proxy.ts'
import { spawnProcess } from './helper.ts'
import { faults, startGoodReceiver } from './hostile-receivers.ts'

type Options = Partial<Parameters<typeof createReturnAddressGuard>[0]> & { timeoutMs?: number }

function startSender(t: Test, { timeoutMs = 15_000, ...options }: Options) {
  const guard = createReturnAddressGuard({ allow: ['127.0.0.0/8'], ...options })
  t.teardown(() => guard.close())
  const keys = parseSigningKeys(generateSecret())
  const { dispatcher } = guard
  const { send } = createWebhookSender({ dispatcher, keys, userAgent: 'quartet-test/1', timeoutMs })
  return { guard, send: (url: string) => send({ tenant: 'default', url, id: 'job.1', body: '{"seq":1}' }) }
}

t.test('webhooks go through the proxy, several of them in one tunnel', async (t) => {
  const proxy = await startForwardProxy(t)
  const receiver = await startGoodReceiver(t)
  const { send } = startSender(t, { proxy: proxy.url })
  for (let i = 0; i < 5; i++) t.match(await send(receiver.url), { status: 'delivered', statusCode: 200 })
  t.equal(receiver.requests(), 5)
  t.ok(proxy.asked.length < 5, `5 webhooks took ${proxy.asked.length} tunnels`)
  t.match(proxy.asked[0], { authority: new URL(receiver.url).host, authorization: undefined })
})

t.test('the proxy gets the credentials of its URL', async (t) => {
  const receiver = await startGoodReceiver(t)
  const cases = [
    ['user:p%40ss%C3%A9@', 'user:p@ssé'],
    ['user@', 'user:'],
    [':pass@', ':pass'],
  ] as const
  for (const [credentials, decoded] of cases) {
    const proxy = await startForwardProxy(t)
    const { send } = startSender(t, { proxy: proxy.url.replace('//', `//${credentials}`) })
    t.match(await send(receiver.url), { status: 'delivered' })
    t.equal(proxy.asked[0]?.authorization, `Basic ${Buffer.from(decoded).toString('base64')}`)
  }
})

t.test('a proxy that serves nobody is told from one that does not serve this receiver', async (t) => {
  const unsent = { status: 'failed', reason: 'proxy', unsent: true }
  const status = (line: string, ...headers: string[]) => [
    (socket: Socket) => void socket.end([`HTTP/1.1 ${line}`, ...headers, '', 'x-body'].join('\r\n')),
    `Expected the callback proxy to answer CONNECT with a 2xx status, got ${line.slice(0, 3)}`,
  ]
  const cases = [
    [...status('407 Proxy Authentication Required', 'proxy-authenticate: Basic realm="x-realm"'), true],
    [...status('407 Request rejected by proxy', 'x-smokescreen-error: denied'), false],
    [...status('403 Forbidden'), false],
    [...status('502 Bad Gateway'), false],
    [...status('504 Gateway Timeout'), false],
    [...status('302 Found', 'location: http://127.0.0.1/'), false],
    [(socket: Socket) => void socket.destroy(), /got ECONNRESET$/, false],
    [(socket: Socket) => void socket.resetAndDestroy(), /got ECONNRESET$/, false],
    [(socket: Socket) => void socket.write('SSH-2.0-OpenSSH_9.2\r\n'), /got HPE_\w+$/, false],
    [() => {}, /got none in time$/, false],
  ] as const
  const receiver = await startGoodReceiver(t)
  for (const [answer, error, isUnsent] of cases) {
    const proxy = await startForwardProxy(t, { answer: answer as (socket: Socket) => void })
    const { guard, send } = startSender(t, { proxy: withPassword(proxy.url), connectTimeoutMs: 300 })
    const outcome = await send(receiver.url)
    const expected = isUnsent ? 'Expected the callback proxy to take our credentials, got 407' : error
    t.match(outcome, { ...unsent, unsent: isUnsent || undefined, error: expected }, String(error))
    t.notMatch(JSON.stringify(outcome), /hunter2|127\.0\.0\.1|x-realm|denied|x-body/)
    t.equal(proxy.connections(), 1, 'it was asked once')
    await guard.close()
    await proxy.left()
  }
  t.equal(receiver.connections(), 0)
})

t.test('a proxy that cannot be reached is one that serves nobody', async (t) => {
  const receiver = await startGoodReceiver(t)
  const plain = await startForwardProxy(t)
  const untrusted = await startForwardProxy(t, { isSecure: true })
  const silent = createServer()
  silent.listen(0, '127.0.0.1')
  await once(silent, 'listening')
  t.teardown(() => silent.close())
  const { port } = silent.address() as AddressInfo
  const gone = createServer().listen(0, '127.0.0.1')
  await once(gone, 'listening')
  const { port: goneport } = gone.address() as AddressInfo
  gone.close()
  await once(gone, 'close')
  const cases = [
    [`http://127.0.0.1:${goneport}`, 'ECONNREFUSED'],
    [plain.url.replace('http:', 'https:'), /^ERR_SSL_WRONG_VERSION_NUMBER$|^EPROTO$/],
    [untrusted.url, 'DEPTH_ZERO_SELF_SIGNED_CERT'],
    [`https://127.0.0.1:${port}`, 'CONNECT_TIMEOUT'],
  ] as const
  for (const [proxy, code] of cases) {
    const { send } = startSender(t, { proxy: withPassword(proxy), connectTimeoutMs: 300 })
    const { error, ...outcome } = (await send(receiver.url)) as { error: string }
    t.match(outcome, { status: 'failed', reason: 'proxy', unsent: true }, proxy)
    const expected = 'Expected the callback proxy to be reached, got '
    t.match([error.slice(0, expected.length), error.slice(expected.length)], [expected, code])
  }
  t.equal(receiver.connections(), 0)
})

for (const [does, { start, outcome }] of Object.entries(faults)) {
  t.test(`a receiver behind the proxy that ${does} is recorded as without it`, async (t) => {
    const proxy = await startForwardProxy(t)
    const receiver = await start(t)
    const { guard, send } = startSender(t, { proxy: proxy.url, connectTimeoutMs: 300, timeoutMs: 400 })
    t.match(await send(receiver.url), { ...outcome, durationMs: Number })
    t.equal(receiver.connections(), 1)
    await guard.close()
    await proxy.left()
  })
}

t.test('what may not be reached is not asked of the proxy', async (t) => {
  const proxy = await startForwardProxy(t)
  const { lookup } = await startDnsServer(t, {
    'mixed.example': [['93.184.215.14', '10.0.0.1']],
    'rebinding.example': [['93.184.215.14'], ['127.0.0.1']],
  })
  const { guard, send } = startSender(t, { proxy: proxy.url, allow: [], lookup })
  t.match(await guard.check('http://rebinding.example/'), { status: 'allowed' })
  const hosts = [
    '127.0.0.1',
    '2130706433',
    '[::ffff:10.0.0.1]',
    'localhost',
    'mixed.example',
    'rebinding.example',
  ]
  for (const host of hosts) {
    t.match(await guard.check(`http://${host}/`), { status: 'refused' }, host)
    for (const scheme of ['http', 'https'])
      t.match(await send(`${scheme}://${host}/`), { status: 'blocked' }, host)
  }
  t.equal(proxy.connections(), 0)
})

t.test('a name that does not resolve here, or not soon, is left to the proxy', async (t) => {
  const proxy = await startForwardProxy(t)
  const receiver = await startGoodReceiver(t)
  const { port } = new URL(receiver.url)
  const { lookup } = await startDnsServer(t, {})
  const silent = () => {}
  for (const resolver of [lookup, silent]) {
    const { guard, send } = startSender(t, { proxy: proxy.url, lookup: resolver, connectTimeoutMs: 3_000 })
    const url = `http://elsewhere.example:${port}/`
    t.match(await guard.check(url), { status: 'allowed' })
    t.match(await send(url), { status: 'delivered' })
  }
  t.same(new Set(proxy.asked.map(({ authority }) => authority)), new Set([`elsewhere.example:${port}`]))
})

t.test('a proxy may speak TLS, and TLS with the receiver is inside of it', async (t) => {
  const proxy = await startForwardProxy(t, { isSecure: true })
  const plain = await startGoodReceiver(t)
  const secure = await startGoodReceiver(t, { isSecure: true })
  const urls = [plain.url, secure.url, secure.url.replace('localhost', '127.0.0.1')]
  const args = [
    'node',
    '--import',
    'tsx',
    'test/send-webhooks.ts',
    `--proxy=${withPassword(proxy.url)}`,
    ...urls,
  ]
  const sent = spawnProcess(t, args, { env: { NODE_EXTRA_CA_CERTS: 'test/fixtures/localhost.crt' } })
  const [, json = ''] = await sent.waitForLine(/^outcomes (.*)$/)
  t.match(JSON.parse(json), [
    { status: 'delivered' },
    { status: 'delivered' },
    { status: 'failed', reason: 'tls', error: /does not match certificate's altnames/ },
  ])
  t.same(
    new Set(proxy.asked.map(({ authority }) => authority)),
    new Set(urls.map((url) => new URL(url).host)),
  )
})

t.test('a gateway that closes gives up what it is asking of the proxy', async (t) => {
  const asking = new EventEmitter()
  const proxy = await startForwardProxy(t, { answer: () => asking.emit('asked') })
  const { guard, send } = startSender(t, { proxy: proxy.url, connectTimeoutMs: 600_000 })
  const asked = once(asking, 'asked')
  const sent = t.rejects(send('http://127.0.0.1:1/'), { code: 'UND_ERR_DESTROYED' })
  await asked
  await guard.close()
  await sent
  await proxy.left()
})

t.test('a proxy that is no proxy’s URL is refused, and not shown', async (t) => {
  const expected = 'Expected http://user:password@host:port, or https, got'
  const cases = [
    ['hunter2', 'no URL'],
    ['http://', 'no URL'],
    ['socks5://:hunter2@proxy', 'another scheme'],
    ['http://:hunter2@proxy/hunter2', 'more behind the host'],
    ['http://:hunter2@proxy?hunter2', 'more behind the host'],
    ['http://:hunter2%@proxy', 'a % that encodes nothing'],
    ['http://a%3Ab:hunter2@proxy', 'a user name with a colon'],
  ] as const
  for (const [proxy, found] of cases) {
    t.throws(() => createReturnAddressGuard({ allow: [], proxy }), { message: `${expected} ${found}` }, proxy)
  }
})

function withPassword(url: string): string {
  return url.replace('//', '//user:hunter2@')
}
