import type { Test } from 'tap'
import { createInbox } from '../conformance/clients.ts'
import type { ApiKey } from '../../src/store/api-keys.ts'
import { randomBytes } from 'node:crypto'
import type { OpenStore } from './jobs.ts'

const newKey = (fields: Partial<ApiKey> = {}): ApiKey => ({
  id: randomBytes(8).toString('hex'),
  digest: randomBytes(32).toString('base64url'),
  tenant: 'acme',
  scopes: ['jobs:write'],
  types: ['echo'],
  name: 'a “name”',
  createdAt: 1_700_000_000_000,
  expiresAt: null,
  ...fields,
})

export function keepingKeys(t: Test, openStore: OpenStore): void {
  t.test('a key is found as it was added, by any node, until it is revoked', async (t) => {
    const [{ apiKeys: here }, { apiKeys: there }] = [await openStore(t), await openStore(t)]
    const [mine, other] = [newKey(), newKey({ types: null, name: null, expiresAt: 5 })]
    for (const key of [mine, other]) await here.add(key)
    const before = await there.revocations()
    t.strictSame(await there.find(mine.id), { key: mine, revocations: before })
    t.strictSame(await there.find(other.id), { key: other, revocations: before })

    t.equal(await there.revoke(mine.id), true)
    const after = await here.revocations()
    t.not(after, before)
    t.strictSame(await here.find(mine.id), { key: null, revocations: after })
    t.strictSame(await here.find(other.id), { key: other, revocations: after })
    t.equal(await here.revoke(mine.id), false, 'there is none any more')
  })

  t.test('what is no key is not found, listed or revoked', async (t) => {
    const { apiKeys } = await openStore(t)
    const key = newKey()
    await apiKeys.add(key)
    await apiKeys.revoke(newKey().id)
    for (const id of ['', 'revocations', '0'.repeat(16)]) {
      t.equal((await apiKeys.find(id)).key, null)
      t.equal(await apiKeys.revoke(id), false)
    }
    t.ok((await apiKeys.revocations()) > 0)
    t.ok((await apiKeys.list()).every(({ id, digest }) => id.length === 16 && digest.length === 43))
  })

  t.test('keys are listed, the oldest first, without those that were revoked', async (t) => {
    const { apiKeys } = await openStore(t)
    const tenant = randomBytes(8).toString('hex')
    const keys = [3, 1, 2].map((createdAt) => newKey({ tenant, createdAt }))
    for (const key of keys) await apiKeys.add(key)
    await apiKeys.revoke(keys[2]?.id ?? '')
    const found = (await apiKeys.list()).filter((key) => key.tenant === tenant)
    t.strictSame(found, [keys[1], keys[0]])
  })

  t.test('whoever listens hears that a key was revoked', async (t) => {
    const [{ apiKeys: here }, { apiKeys: there }] = [await openStore(t), await openStore(t)]
    const heard = createInbox<number>()
    const unfollow = here.onRevoked(() => heard.push(1))
    await heard.next() // what came before it could hear may have been missed
    await there.revoke(newKey().id)
    await heard.next()
    unfollow()
  })

  t.test('all nodes sign tokens with one secret', async (t) => {
    const stores = await Promise.all([1, 2, 3].map(() => openStore(t)))
    const secrets = await Promise.all(stores.map(({ apiKeys }, index) => apiKeys.tokenSecret(`${index}`)))
    t.equal(new Set(secrets).size, 1)
    t.equal(await stores[0]?.apiKeys.tokenSecret('another'), secrets[0])
  })
}
