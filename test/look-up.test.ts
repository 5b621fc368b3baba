import type { LookupAddress } from 'node:dns'
import { once } from 'node:events'
import { createServer, type AddressInfo, type LookupFunction } from 'node:net'
import t from 'tap'
import { request } from 'undici'
import { createLookup } from '../src/deliver/look-up.ts'
import { createReturnAddressGuard } from '../src/deliver/return-address.ts'
import { startDnsServer } from './dns-server.ts'

t.test('a name has all of its addresses, of both kinds', async (t) => {
  const { lookup } = await startDnsServer(t, { 'two.test': [['192.0.2.1', '2001:db8::1']] })
  t.same(await find(lookup, 'two.test'), [
    { address: '192.0.2.1', family: 4 },
    { address: '2001:db8::1', family: 6 },
  ])
})

t.test('look-ups of one name at one time are one', async (t) => {
  const { lookup, questions } = await startDnsServer(t, { 'one.test': [['192.0.2.1']] })
  await Promise.all(Array.from({ length: 10 }, () => find(lookup, 'one.test')))
  t.equal(questions(), 1)
  await find(lookup, 'one.test')
  t.equal(questions(), 2, 'nothing is kept')
})

t.test('names whose nameserver never answers hold up nobody else', async (t) => {
  const names = Array.from({ length: 100 }, (_, n) => `hanging-${n}.test`)
  const zone = Object.fromEntries(names.map((name) => [name, ['hang' as const]]))
  const { lookup } = await startDnsServer(t, { ...zone, 'good.test': [['192.0.2.1']] })
  let failed = 0
  const hanging = names.map((name) =>
    find(lookup, name).catch((error: NodeJS.ErrnoException) => {
      failed++
      return error.code
    }),
  )
  for (let n = 0; n < 10; n++) t.match(await find(lookup, 'good.test'), [{ address: '192.0.2.1' }])
  t.equal(failed, 0, 'they are still under way')
  for (const code of await Promise.all(hanging)) t.equal(code, 'ETIMEOUT')
})

t.test('a nameserver that never answers for IPv6 costs no connection its time', async (t) => {
  const { lookup } = await startDnsServer(t, { 'four.test': [['127.0.0.1', 'hang']] })
  const server = createServer((socket) => socket.end('HTTP/1.1 204 No Content\r\n\r\n')).listen(
    0,
    '127.0.0.1',
  )
  await once(server, 'listening')
  t.teardown(() => server.close())
  const guard = createReturnAddressGuard({ allow: ['127.0.0.1'], lookup })
  t.teardown(() => guard.close())
  const { port } = server.address() as AddressInfo
  const { statusCode } = await request(`http://four.test:${port}/`, { dispatcher: guard.dispatcher })
  t.equal(statusCode, 204)
})

t.test('what DNS does not have is looked for in the hosts file', async (t) => {
  const { lookup } = await startDnsServer(t, {})
  const found = await find(lookup, 'localhost')
  t.ok(found.some(({ address }) => address === '127.0.0.1' || address === '::1'))
  await t.rejects(find(lookup, 'nowhere.invalid'), { code: /^(ENOTFOUND|EAI_AGAIN)$/ })
  await t.rejects(find(createLookup(['127.0.0.1:1']), 'nowhere.invalid'), { code: /^(ENOTFOUND|EAI_AGAIN)$/ })
})

function find(lookup: LookupFunction, host: string): Promise<LookupAddress[]> {
  return new Promise((resolve, reject) => {
    lookup(host, { all: true }, (error, found) => {
      if (error) reject(error)
      else resolve(found as LookupAddress[])
    })
  })
}
