import { once } from 'node:events'
import t from 'tap'
import { createConnect, type Client } from '../src/store/redis/connect.ts'
import { createReplicate, ReplicationError } from '../src/store/redis/replicate.ts'
import { startGateway } from './gateway.ts'
import { startRedis } from './helper.ts'

t.test('a write is confirmed while the replicas follow, and refused while they do not', async (t) => {
  const master = await startRedis(t)
  const replica = await startRedis(t, { args: ['--replicaof', '127.0.0.1', String(master.port)] })
  const client = createConnect(master.url, () => undefined)('command')
  t.teardown(() => client.disconnect())
  await once(client, 'ready')
  await whenFollowed(client)

  const replicate = createReplicate(client, 1)
  await client.set('a', '1')
  // Many at once share a question or two.
  await whenConfirmed(async () => {
    await client.config('RESETSTAT')
    await Promise.all(Array.from({ length: 100 }, () => replicate('a')))
  })
  t.equal(await replica.connect().get('a'), '1')
  const { cmdstat_wait: stats = '' } = Object.fromEntries(
    (await client.info('commandstats')).split('\r\n').map((line) => line.split(':') as [string, string]),
  )
  t.match(stats, /^calls=2,/)

  await replica.stop()
  await client.set('a', '2')
  await t.rejects(replicate('a'), ReplicationError)
  await t.rejects(createReplicate(client, 2)('a'), {
    message: 'Expected 2 replicas to confirm a write, got 0',
  })
  await createReplicate(client, 0)('a')
  await replica.start()
  await whenFollowed(client)
  await whenConfirmed(() => replicate('a'))
  t.equal(await replica.connect().get('a'), '2')
})

t.test('without the replicas that must confirm it no job is accepted', async (t) => {
  const redis = await startRedis(t)
  const gateway = await startGateway(
    t,
    { x: { steps: ['x'] } },
    { redis, env: { QUARTET_WAIT_REPLICAS: '1' } },
  )
  for (const headers of [{}, { 'idempotency-key': 'k' }]) {
    const refused = await gateway.post({ type: 'x' }, headers)
    t.equal(refused.status, 503)
    t.match(await refused.json(), { code: 'store_unavailable' })
  }
  const { jobs } = (await (await fetch(`${gateway.url}/jobs`)).json()) as { jobs: object[] }
  t.equal(jobs.length, 1, 'what was refused for good is not kept')
  await startRedis(t, { args: ['--replicaof', '127.0.0.1', String(redis.port)] })
  await whenFollowed(redis.connect())
  t.equal(await accepted({}), 202)
  t.equal(await accepted({ 'idempotency-key': 'k' }), 202, 'the retry finishes what the first began')

  /** On a busy machine a replica may take longer than a request waits for it. */
  async function accepted(headers: Record<string, string>): Promise<number> {
    for (;;) {
      const { status } = await gateway.post({ type: 'x' }, headers)
      if (status !== 503) return status
    }
  }
})

/** Asks until it is confirmed: on a busy machine a replica may take longer than one question waits for it. */
async function whenConfirmed(ask: () => Promise<unknown>): Promise<void> {
  for (;;) {
    try {
      await ask()
      return
    } catch (error) {
      if (!(error instanceof ReplicationError)) throw error
    }
  }
}

/** Resolves when a replica has what is written now. */
async function whenFollowed(client: Client): Promise<void> {
  await client.set('followed', '1')
  // A command connection gives up sooner than a replica may take to copy everything.
  while ((await client.wait(1, 1_000)) < 1);
}
