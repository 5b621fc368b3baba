import { once } from 'node:events'
import { createServer as createHttpServer } from 'node:http'
import type { AddressInfo, LookupFunction } from 'node:net'
import ipaddr from 'ipaddr.js'
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
    '[2600::5efe:5db8:d70e]',
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
      ['[2600::5efe:10.0.0.1]', /resolves to 10\.0\.0\.1, a private address/],
      ['168.63.129.16', /is the address of Azure's host/],
    ] as const
    for (const [host, reason] of kinds) t.match(await reasonOf(check(`http://${host}/`)), reason, host)
  },
)

// https://www.iana.org/assignments/iana-ipv4-special-registry and -ipv6-, multicast, and what RFC 3879 took back.
const SPECIAL_BLOCKS = `
  0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 169.254.0.0/16 172.16.0.0/12 192.0.0.0/24 192.0.2.0/24 192.31.196.0/24
  192.52.193.0/24 192.88.99.0/24 192.168.0.0/16 192.175.48.0/24 198.18.0.0/15 198.51.100.0/24 203.0.113.0/24 224.0.0.0/4
  240.0.0.0/4 255.255.255.255/32
  ::/128 ::1/128 ::/96 ::ffff:0:0:0/96 64:ff9b:1::/48 100::/64 100:0:0:1::/64 2001::/23 2001::/32 2001:1::1/128
  2001:2::/48 2001:3::/32 2001:4:112::/48 2001:10::/28 2001:20::/28 2001:30::/28 2001:db8::/32 2620:4f:8000::/48
  3fff::/20 5f00::/16 fc00::/7 fe80::/10 fec0::/10 ff00::/8`

t.test('every block of special addresses is refused, at both its ends', async (t) => {
  const { check } = guardFor(t)
  for (const block of SPECIAL_BLOCKS.trim().split(/\s+/)) {
    const kind = block.includes(':') ? ipaddr.IPv6 : ipaddr.IPv4
    const ends = [kind.networkAddressFromCIDR(block), kind.broadcastAddressFromCIDR(block)]
    for (const end of ends.map(String)) {
      const url = `http://${end.includes(':') ? `[${end}]` : end}/`
      t.match(await check(url), { status: 'refused', reason: /address/ }, `${end} of ${block}`)
    }
  }
})

t.test('what is next to a block of special addresses is allowed', async (t) => {
  const { check } = guardFor(t)
  const neighbours = `
    1.0.0.0 9.255.255.255 11.0.0.0 100.63.255.255 100.128.0.0 126.255.255.255 128.0.0.0 168.63.129.15 168.63.129.17
    169.253.255.255 169.255.0.0 172.15.255.255 172.32.0.0 191.255.255.255 192.0.1.0 192.0.3.0 192.167.255.255 192.169.0.0
    198.17.255.255 198.20.0.0 198.51.101.0 203.0.112.255 223.255.255.255
    [2001:200::] [2001:db7:ffff::1] [2001:db9::] [2003::] [2600::5eff:7f00:1] [2600::100:5efe:7f00:1] [3fff:1000::]`
  for (const host of neighbours.trim().split(/\s+/)) {
    t.match(await check(`http://${host}/`), { status: 'allowed' }, host)
  }
})

t.test('a name that does not resolve is refused, so that a client learns of a typo', async (t) => {
  const notFound = Object.assign(new Error('getaddrinfo ENOTFOUND'), { code: 'ENOTFOUND' })
  const { check } = guardFor(t, { lookup: answering(notFound, []) })
  t.equal(await reasonOf(check('http://typo.example/')), 'typo.example does not resolve (ENOTFOUND)')
  t.match(await reasonOf(check('http://empty.example/')), /^empty\.example does not resolve \(.*got none\)$/)
})

t.test('a resolver that never answers holds neither a check nor a connection for long', async (t) => {
  const pending: unknown[] = []
  const { check, dispatcher } = guardFor(t, {
    lookup: (_host, _options, callback) => pending.push(callback),
    connectTimeoutMs: 200,
  })
  // It says nothing of the name, which is judged again at every try.
  t.equal((await check('http://slow.example/')).status, 'allowed')
  const late = request('http://slow.example/', { dispatcher })
  await t.rejects(late, { code: 'CONNECT_TIMEOUT' })
  t.equal(pending.length, 2)
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
