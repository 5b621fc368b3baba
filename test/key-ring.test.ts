import pino from 'pino'
import t from 'tap'
import { createApiKey } from '../src/access/api-key.ts'
import type { Identity } from '../src/access/identity.ts'
import { createKeyRing } from '../src/access/key-ring.ts'
import type { ApiKey, ApiKeys } from '../src/store/api-keys.ts'

/** A store that counts what it is asked, and a clock that the test moves. */
async function start() {
  const keys = new Map<string, ApiKey>()
  const asked = { find: 0, revocations: 0 }
  let revoked = 0
  let now = 1_000_000
  const apiKeys = {
    add: async (key: ApiKey) => void keys.set(key.id, key),
    find: async (id: string) => {
      asked.find++
      return { key: keys.get(id) ?? null, revocations: revoked }
    },
  } as unknown as ApiKeys
  const store = { apiKeys, now: () => now }
  const ring = createKeyRing({ store, log: pino({ level: 'silent' }) }, () => now)
  const given = { tenant: 'acme', types: null, name: null, createdAt: now, expiresAt: now + 5_000 }
  const { id, key } = await createApiKey(apiKeys, { ...given, scopes: ['jobs:read'] })
  return {
    ring,
    key,
    asked,
    pass: (ms: number) => (now += ms),
    revoke: () => {
      keys.delete(id)
      revoked++
    },
  }
}

t.test('a key that is remembered costs the store nothing, and is there at once', async (t) => {
  const { ring, key, asked, pass } = await start()
  const first = ring.verify(key)
  t.ok(first instanceof Promise)
  t.match(await first, { tenant: 'acme', scopes: new Set(['jobs:read']) })
  pass(890)
  for (let n = 0; n < 1_000; n++) t.equal((ring.verify(key) as Identity).tenant, 'acme')
  t.equal(asked.find, 1)
})

t.test('it is remembered for less than a second', async (t) => {
  const { ring, key, asked, pass, revoke } = await start()
  await ring.verify(key)
  revoke()
  t.notOk(ring.verify(key) instanceof Promise, 'nobody has told of it yet')
  pass(900)
  await t.rejects(Promise.resolve(ring.verify(key)), { code: 'unauthorized' })
  t.equal(asked.find, 2)
})

t.test('what was just known of one key says that none was revoked', async (t) => {
  const one = await start()
  await one.ring.verify(one.key)
  one.revoke()
  await t.rejects(async () => one.ring.verify(`qk_${'0'.repeat(16)}_${'A'.repeat(43)}`))
  const again = one.ring.verify(one.key)
  t.ok(again instanceof Promise, 'the count has changed, so it is asked for again')
  await t.rejects(Promise.resolve(again), { code: 'unauthorized' })
})

t.test('a remembered key with another secret is refused', async (t) => {
  const { ring, key } = await start()
  await ring.verify(key)
  t.throws(() => ring.verify(`${key.slice(0, -43)}${'A'.repeat(43)}`), { code: 'unauthorized' })
})

t.test('a remembered key ends at its time', async (t) => {
  const { ring, key, pass } = await start()
  pass(4_999)
  await ring.verify(key)
  pass(1)
  t.throws(() => ring.verify(key), { code: 'unauthorized' })
})
