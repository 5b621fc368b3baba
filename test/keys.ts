import { once } from 'node:events'
import type { Test } from 'tap'
import { createApiKey, type NewApiKey } from '../src/access/api-key.ts'
import { scopes } from '../src/access/identity.ts'
import type { ApiKeys } from '../src/store/api-keys.ts'
import { createConnect } from '../src/store/redis/connect.ts'
import { createRedisStore } from '../src/store/redis/redis-store.ts'
import { startGateway, type GatewayOptions, type TestGateway } from './gateway.ts'
import type { TestRedis } from './helper.ts'

/** A gateway that asks for keys, and whoever gives them out. */
export interface KeyedGateway extends TestGateway {
  readonly keys: ApiKeys
  /** Makes a key; of the tenant `acme` and for everything, unless said otherwise. */
  createKey(given?: Partial<NewApiKey>): Promise<{ readonly id: string; readonly key: string }>
  /** The same gateway for the clients of a new key. */
  as(given?: Partial<NewApiKey>): Promise<TestGateway>
}

/** @param options.redis a shared one makes this another node */
export async function startKeyedGateway(
  t: Test,
  types: Record<string, unknown>,
  options: GatewayOptions = {},
): Promise<KeyedGateway> {
  const gateway = await startGateway(t, types, {
    ...options,
    env: { QUARTET_AUTH: 'keys', ...options.env },
  })
  const keys = await openKeys(t, gateway.redis)
  const createKey = (given: Partial<NewApiKey> = {}) =>
    createApiKey(keys, {
      tenant: 'acme',
      scopes,
      types: null,
      name: null,
      createdAt: Date.now(),
      expiresAt: null,
      ...given,
    })
  return { ...gateway, keys, createKey, as: async (given) => withKey(gateway, (await createKey(given)).key) }
}

/** A gateway whose clients send this credential. */
export function withKey(gateway: TestGateway, key: string): TestGateway {
  const headers = { authorization: `Bearer ${key}` }
  return {
    ...gateway,
    headers,
    post: (body, more) => gateway.post(body, { ...headers, ...more }),
  }
}

/** The keys as the command line has them: on a connection of its own. */
export async function openKeys(t: Test, { url }: TestRedis): Promise<ApiKeys> {
  const connect = createConnect(url, () => undefined)
  const client = connect('command')
  await once(client, 'ready')
  const store = createRedisStore(client, connect)
  t.teardown(async () => {
    await store.close()
    client.disconnect()
  })
  return store.apiKeys
}
