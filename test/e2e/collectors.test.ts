import { setTimeout as delay } from 'node:timers/promises'
import t from 'tap'
import { all, isTerminal, ndjson, seqOf } from './modes.ts'
import { startGatewayProcess, submit } from './processes.ts'
import { startRedis } from './redis.ts'

const LEASE_KEY = '{quartet}:lease:countdown'

t.test(
  'a collector that is paused past its lease and woken applies no event twice, and loses none',
  async (t) => {
    const redis = await startRedis(t)
    const gateway = await startGatewayProcess(t, { redis, roles: 'http,workers' })
    const collectors = await Promise.all([
      startGatewayProcess(t, { redis, roles: 'collect' }),
      startGatewayProcess(t, { redis, roles: 'collect' }),
    ])
    const client = redis.connect()
    const owners = new Set<string>()

    const submitted = Array.from({ length: 40 }, () =>
      submit(gateway.url, { type: 'countdown', input: { from: 40, interval_ms: 50 } }),
    )
    const ids = await Promise.all(submitted)
    // Which of the two has the lease is not told to the outside: the one that is paused must have it at least once.
    for (const { child } of collectors) {
      const held = await owner()
      owners.add(held)
      child.kill('SIGSTOP')
      const until = Date.now() + 8_000
      while (Date.now() < until && (await owner()) === held) await delay(100)
      child.kill('SIGCONT')
    }
    owners.add(await owner())
    t.equal(owners.size, 2, 'the lease has changed hands')

    for (const id of ids) {
      const events = await all(ndjson(gateway.url, id, 0))
      const expected = Array.from(events, (_, index) => index + 1)
      if (events.length !== 43) t.fail(`Expected 43 events, got ${events.length}`)
      if (String(events.map(seqOf)) !== String(expected)) t.fail(`holes or repeats in ${id}`)
      if (events.filter(isTerminal).length !== 1) t.fail(`Expected one terminal event of ${id}`)
    }
    t.pass(`${ids.length} journals are whole`)

    async function owner(): Promise<string> {
      for (;;) {
        const found = await client.get(LEASE_KEY)
        if (found) return found
        await delay(50)
      }
    }
  },
)
