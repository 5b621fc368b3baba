import { lookup as systemLookup } from 'node:dns'
import { once } from 'node:events'
import { createServer as createHttpServer } from 'node:http'
import { createServer, type AddressInfo, type LookupFunction } from 'node:net'
import t, { type Test } from 'tap'
import { request } from 'undici'
import { createReturnAddressGuard } from '../src/deliver/return-address.ts'

const PUBLIC_V4 = '93.184.215.14'
const PUBLIC_V6 = '2606:2800:21f:cb07:6820:80da:af6b:8b2c'

/** A resolver with one answer for each question in turn, the last one for all that follow. */
function answering(...answers: (readonly string[] | NodeJS.ErrnoException)[]): LookupFunction {
  let question = 0
  return (_host, _options, callback) => {
    const answer = answers[Math.min(question++, answers.length - 1)] ?? []
    if (answer instanceof Error) return callback(answer, [])
    const found = answer.map((address) => ({ address, family: address.includes(':') ? 6 : 4 }))
    process.nextTick(callback, null, found)
  }
}

function guardFor(t: Test, options: Partial<Parameters<typeof createReturnAddressGuard>[0]> = {}) {
  const guard = createReturnAddressGuard({ allow: [], lookup: answering([PUBLIC_V4]), ...options })
  t.teardown(() => guard.close())
  return guard
}

/** Listens on every address of this machine, and counts who comes. */
async function startListener(t: Test) {
  let connections = 0
  const server = createServer((socket) => {
    connections++
    socket.destroy()
  })
  server.listen(0)
  await once(server, 'listening')
  t.teardown(() => server.close())
  return { port: (server.address() as AddressInfo).port, connections: () => connections }
}

async function startHttpServer(t: Test) {
  const hosts: (string | undefined)[] = []
  const server = createHttpServer((request, response) => {
    hosts.push(request.headers.host)
    response.end('here')
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => server.close())
  return { port: (server.address() as AddressInfo).port, hosts }
}

async function reasonOf(check: Promise<{ status: string; reason?: string }>) {
  const { status, reason } = await check
  return status === 'refused' ? reason : status
}

t.test('a public name and public literal addresses are allowed', async (t) => {
  const { check } = guardFor(t)
  for (const host of [
    'example.com',
    'example.com.',
    PUBLIC_V4,
    `[${PUBLIC_V6}]`,
    '[64:ff9b::5db8:d70e]',
    '[2002:5db8:d70e::1]',
  ]) {
    t.match(await check(`https://${host}:8443/hook?a=1`), { status: 'allowed', url: URL }, host)
  }
})

t.test('a return address that is no plain http URL is refused with what was expected', async (t) => {
  const { check } = guardFor(t)
  const reasons = [
    ['/hook', 'Expected an absolute URL, got "/hook"'],
    ['http://', 'Expected an absolute URL, got "http://"'],
    ['http://./', 'Expected a URL with a host, got "http://./"'],
    ['ftp://example.com/', 'Expected an http or https URL, got ftp:'],
    ['file:///etc/passwd', 'Expected an http or https URL, got file:'],
    ['http://user@example.com/', 'Expected a URL without user name and password, got one with them'],
    ['http://:secret@example.com/', 'Expected a URL without user name and password, got one with them'],
    ['http://example.com/'.padEnd(2_049, 'a'), 'Expected a URL of at most 2048 characters, got 2049'],
  ] as const
  for (const [url, reason] of reasons) t.equal(await reasonOf(check(url)), reason, url.slice(0, 40))
  t.equal(await reasonOf(check('http://example.com/'.padEnd(2_048, 'a'))), 'allowed')
})

t.test(
  'an address that is not public is refused with its kind and the setting that would allow it',
  async (t) => {
    const { check } = guardFor(t)
    const kinds = [
      ['10.1.2.3', '10.1.2.3 is a private address; QUARTET_CALLBACK_ALLOW=10.1.2.3/32 allows it'],
      ['169.254.169.254', /is a link-local address/],
      ['100.64.0.1', /is a carrier-grade NAT address/],
      ['0.0.0.0', /is an unspecified address/],
      ['255.255.255.255', /is the broadcast address/],
      ['224.0.0.1', /is a multicast address/],
      ['192.0.2.1', /is a special-purpose address/],
      ['198.18.0.1', /is a special-purpose address/],
      ['[::1]', '::1 is a loopback address; QUARTET_CALLBACK_ALLOW=::1/128 allows it'],
      ['[fd00::1]', /is a unique local address/],
      ['[fe80::1]', /is a link-local address/],
      ['[2001:db8::1]', /is a special-purpose address/],
      ['[2001:0:4136:e378::1]', /is a Teredo address/],
      ['[::7f00:1]', /is a special-purpose address/],
      ['[4000::1]', /is a special-purpose address/],
      ['[64:ff9b:1::7f00:1]', /is a special-purpose address/],
      ['[64:ff9b::a9fe:a9fe]', /resolves to 169\.254\.169\.254, a link-local address/],
    ] as const
    for (const [host, reason] of kinds) t.match(await reasonOf(check(`http://${host}/`)), reason, host)
  },
)

t.test('no spelling of loopback passes the check, and none is ever connected to', async (t) => {
  const listener = await startListener(t)
  const { check, dispatcher } = guardFor(t, { lookup: systemLookup })
  const spellings = `
    127.0.0.1 127.0.0.1. 127.1 2130706433 0177.0.0.1 017700000001 0x7f.0.0.1 0x7f000001 %31%32%37.0.0.1 ①②⑦.0.0.1
    127.8.9.10 0 0.0.0.0 [::] [::1] [0:0:0:0:0:0:0:1] [::ffff:127.0.0.1] [::ffff:7f00:1] [::127.0.0.1]
    [64:ff9b::127.0.0.1] [2002:7f00:1::1] localhost LOCALHOST localhost. api.localhost api.localhost.`
  for (const host of spellings.trim().split(/\s+/)) {
    for (const scheme of ['http', 'https']) {
      const url = `${scheme}://${host}:${listener.port}/`
      t.match(
        await check(url),
        { status: 'refused', reason: / address.*; QUARTET_CALLBACK_ALLOW=/ },
        `check ${url}`,
      )
      await t.rejects(request(url, { dispatcher }), { code: 'ADDRESS_BLOCKED' }, `request ${url}`)
    }
  }
  t.equal(listener.connections(), 0)
})

t.test('a name that does not resolve is refused, so that a client learns of a typo', async (t) => {
  const notFound = Object.assign(new Error('getaddrinfo ENOTFOUND'), { code: 'ENOTFOUND' })
  const { check } = guardFor(t, { lookup: answering(notFound, []) })
  t.equal(await reasonOf(check('http://typo.example/')), 'typo.example does not resolve (ENOTFOUND)')
  t.match(await reasonOf(check('http://empty.example/')), /^empty\.example does not resolve \(.*got none\)$/)
})

t.test('a resolver that never answers holds neither a check nor a connection for long', async (t) => {
  const listener = await startListener(t)
  const pending: unknown[] = []
  const { check, dispatcher } = guardFor(t, {
    lookup: (_host, _options, callback) => pending.push(callback),
    connectTimeoutMs: 200,
  })
  // It says nothing of the name, which is judged again at every try.
  t.equal((await check('http://slow.example/')).status, 'allowed')
  const late = request(`http://slow.example:${listener.port}/`, { dispatcher })
  await t.rejects(late, { code: 'UND_ERR_CONNECT_TIMEOUT' })
  t.equal(pending.length, 2)
})

t.test(
  'a name with a public and a private address is refused, at the check and at the connection',
  async (t) => {
    const listener = await startListener(t)
    for (const answer of [
      [PUBLIC_V4, '127.0.0.1'],
      ['::1', PUBLIC_V6],
      [PUBLIC_V4, '::ffff:10.0.0.1'],
    ]) {
      const { check, dispatcher } = guardFor(t, { lookup: answering(answer) })
      const url = `http://mixed.example:${listener.port}/`
      t.match(await reasonOf(check(url)), /^mixed\.example resolves to .+, a (loopback|private) address;/)
      await t.rejects(request(url, { dispatcher }), {
        code: 'ADDRESS_BLOCKED',
        message: /^mixed\.example resolves to/,
      })
    }
    t.equal(listener.connections(), 0)
  },
)

t.test('a name that was public at the check and is loopback at the connection is blocked', async (t) => {
  const listener = await startListener(t)
  const { check, dispatcher } = guardFor(t, { lookup: answering([PUBLIC_V4], ['127.0.0.1']) })
  const url = `http://rebinding.example:${listener.port}/`
  t.match(await check(url), { status: 'allowed' })
  await t.rejects(request(url, { dispatcher }), {
    code: 'ADDRESS_BLOCKED',
    message:
      'rebinding.example resolves to 127.0.0.1, a loopback address; QUARTET_CALLBACK_ALLOW=127.0.0.1/32 allows it',
  })
  t.equal(listener.connections(), 0)
})

t.test('an allowed range is reached by its addresses, by names and by what stands for them', async (t) => {
  const server = await startHttpServer(t)
  const { check, dispatcher } = guardFor(t, { allow: ['127.0.0.0/8'], lookup: answering(['127.0.0.1']) })
  const hosts = ['127.0.0.1', '[::ffff:127.0.0.1]', 'localhost', 'inside.example'].map(
    (host) => `${host}:${server.port}`,
  )
  for (const host of hosts) {
    t.match(await check(`http://${host}/`), { status: 'allowed' }, host)
    const { statusCode, body } = await request(`http://${host}/`, { dispatcher })
    t.strictSame([statusCode, await body.text()], [200, 'here'], host)
  }
  t.match(await check('http://[2002:7f00:1::]/'), { status: 'allowed' })
  t.match(await check('http://10.0.0.1/'), { status: 'refused' })
  t.equal(server.hosts.length, hosts.length)
  t.ok(server.hosts.includes(`inside.example:${server.port}`), 'the name stays in the host header')
})

t.test('a bare address in the allow list is that address alone', async (t) => {
  const { check } = guardFor(t, { allow: ['10.0.0.7', 'fd00::7'] })
  t.match(await check('http://10.0.0.7/'), { status: 'allowed' })
  t.match(await check('http://10.0.0.8/'), { status: 'refused' })
  t.match(await check('http://[fd00::7]/'), { status: 'allowed' })
  t.match(await check('http://[fd00::8]/'), { status: 'refused' })
})

t.test('an allow list with anything but CIDRs is refused at once', async (t) => {
  for (const entry of [
    '',
    'localhost',
    '10',
    '10/8',
    '10.0.0.0/',
    '10.0.0.0/33',
    '10.0.0.0/-1',
    '::/129',
    '10.0.0.0/8/8',
    '0x7f.1/8',
  ]) {
    const message = `Expected a CIDR such as 10.0.0.0/8, got ${JSON.stringify(entry)}`
    t.throws(() => createReturnAddressGuard({ allow: ['10.0.0.0/8', entry] }), { message })
  }
})
