import t from 'tap'
import { createVerifier } from '../clients/typescript/verify.ts'
import { attemptOf, genuine, id, now, refuses, secret, startVerifiers } from './verifiers.ts'

/* What the verifiers of clients/ make of the headers: each held to the same. */

for (const each of startVerifiers(t)) {
  const { language, verify, kinds } = each

  t.test(`${language}: a webhook from up to five minutes before or after now is taken`, async (t) => {
    for (const kind of kinds) {
      for (const at of [now - 300, now + 300]) {
        t.strictSame(await verify(attemptOf(genuine(kind, at))), { id })
      }
      t.match(await verify(attemptOf(genuine(kind, now - 301))), {
        reason: 'too_old',
        message: 'Expected a webhook at most 300 s old, got 301 s',
      })
      t.match(await verify(attemptOf(genuine(kind, now + 301))), {
        reason: 'too_new',
        message: 'Expected a webhook at most 300 s ahead, got 301 s',
      })
      // The part of a second that has passed does not count.
      t.strictSame(await verify(attemptOf({ ...genuine(kind, now - 300), now: now + 0.999 })), { id })
    }
  })

  t.test(`${language}: a time that is no whole number of seconds is malformed`, async (t) => {
    const times = ['soon', '-1', '+1', '1.5', '1e9', '0x10', ' 1', '1 ', '1\n', '١٢٣', '9'.repeat(13), 'NaN']
    for (const timestamp of times) await refuses(t, each, 'malformed_header', () => ({ timestamp }))
    await refuses(t, each, 'too_old', () => ({ timestamp: '0' }))
    await refuses(t, each, 'too_new', () => ({ timestamp: '9'.repeat(12) }))
  })

  t.test(`${language}: an id that is not the gateway’s kind is malformed`, async (t) => {
    for (const id of ['a b', 'a,b', 'a\n', 'ä', '\u0000', '{', ' ']) {
      await refuses(t, each, 'malformed_header', () => ({ id }))
    }
  })

  t.test(`${language}: each header must be there, once, under whatever case`, async (t) => {
    const { headers, ...rest } = attemptOf(genuine('v1'))
    const upper = headers.map(([name, value]) => [name.toUpperCase(), value] as const)
    const more = [['host', 'example.com'], ...upper, ['x-webhook-id', 'x']] as const
    t.strictSame(await verify({ ...rest, headers: more }), { id })
    for (const [index, [name]] of headers.entries()) {
      const others = headers.toSpliced(index, 1)
      const missing = { reason: 'missing_header', message: `Expected a ${name} header, got none` }
      t.strictSame(await verify({ ...rest, headers: others }), missing)
      t.strictSame(await verify({ ...rest, headers: [...others, [name, '']] }), missing)
      const twice = [...headers, ...upper.slice(index, index + 1)]
      t.strictSame(await verify({ ...rest, headers: twice }), {
        reason: 'malformed_header',
        message: `Expected one ${name}, got 2`,
      })
    }
    t.match(await verify({ ...rest, headers: [] }), { reason: 'missing_header' })
  })
}

t.test('TypeScript: the headers of Node.js, of a Request and of a Map are all read', async (t) => {
  const { keys, headers, body } = attemptOf(genuine('v1', Math.floor(Date.now() / 1_000)))
  const verify = createVerifier(keys)
  const plain = Object.fromEntries(headers)
  for (const each of [plain, new Headers(plain), new Map(headers), { ...plain, 'set-cookie': ['a', 'b'] }]) {
    t.equal(verify(each, body), id)
  }
  t.equal(verify(plain, Buffer.from(body).toString()), id)
  t.throws(() => verify({ ...plain, 'webhook-id': [id, id] }, body), {
    name: 'WebhookError',
    reason: 'malformed_header',
  })
  t.throws(() => verify({ ...plain, 'webhook-id': undefined }, body), {
    name: 'WebhookError',
    reason: 'missing_header',
  })
})

t.test('TypeScript: another tolerance can be set', async (t) => {
  const { headers, body } = attemptOf(genuine('v1', now - 10))
  const verify = createVerifier(secret, { toleranceS: 9, now: () => now * 1_000 })
  t.throws(() => verify(new Map(headers), body), { name: 'WebhookError', reason: 'too_old' })
})
