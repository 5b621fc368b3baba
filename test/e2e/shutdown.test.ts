import { connect } from 'node:net'
import { once } from 'node:events'
import { mkdtemp, rm, stat } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import t from 'tap'
import { WebSocket } from 'ws'
import { spawnProcess } from '../helper.ts'
import { all, isTerminal, ndjson, seqOf, sse } from './modes.ts'
import { startGatewayProcess, submit } from './processes.ts'
import { startRedis } from './redis.ts'

t.test(
  'SIGTERM ends streams and sockets so that their clients go on elsewhere, and loses nothing',
  async (t) => {
    const redis = await startRedis(t)
    const nodes = await Promise.all([
      startGatewayProcess(t, { redis }),
      startGatewayProcess(t, { redis, roles: 'http,collect,workers' }),
    ])
    const [leaving, staying] = nodes
    const id = await submit(leaving.url, { type: 'countdown', input: { from: 30, interval_ms: 100 } })

    const socket = new WebSocket(`${leaving.url.replace('http', 'ws')}/ws`, 'quartet.v1')
    await once(socket, 'open')
    const closed = once(socket, 'close') as Promise<[number]>

    const seen: string[] = []
    for await (const text of sse(leaving.url, id, 0)) {
      seen.push(text)
      if (seen.length === 3) leaving.child.kill('SIGTERM')
    }
    t.notOk(seen.some(isTerminal), 'the stream ended before the job did')
    t.equal((await closed)[0], 4503)
    t.same(await leaving.exited, { code: 0, signal: null })

    seen.push(...(await all(sse(staying.url, id, seen.length))))
    t.same(seen, await all(ndjson(staying.url, id, 0)))
    t.same(
      seen.map(seqOf),
      Array.from(seen, (_, index) => index + 1),
    )
    t.match(JSON.parse(seen.at(-1) ?? ''), { type: 'job.completed' })
  },
)

t.test('without REDIS_URL a private Redis is run, ends with the gateway, and keeps the jobs', async (t) => {
  const cwd = await mkdtemp(join(tmpdir(), 'quartet-start-'))
  t.teardown(() => rm(cwd, { recursive: true, force: true }))
  const start = async () => {
    const process = spawnProcess(
      t,
      ['node', '--import', import.meta.resolve('tsx'), resolve('src/main.ts')],
      {
        cwd,
        env: { PORT: '0', QUARTET_CONFIG: resolve('quartet.config.json') },
      },
    )
    const [, url = ''] = await process.waitForLine(/listens on (http:\S+)/)
    return { ...process, url }
  }

  const first = await start()
  t.ok(first.lines.join('\n').includes('curl -N') || (await first.waitForLine(/curl -N/)))
  const id = await submit(first.url, { type: 'echo', input: 'kept' })
  const events = await all(sse(first.url, id, 0))
  first.child.kill('SIGTERM')
  t.same(await first.exited, { code: 0, signal: null })
  t.equal((await stat(join(cwd, '.quartet/webhook-secret'))).mode & 0o777, 0o600)
  const socket = connect(join(cwd, '.quartet/redis.sock'))
  await t.rejects(once(socket, 'connect'), 'the Redis has gone with its gateway')

  const second = await start()
  t.same(await all(sse(second.url, id, 0)), events)
})

t.test('a bad setting stops the start with one clear line', async (t) => {
  const process = spawnProcess(t, ['node', '--import', 'tsx', 'src/main.ts'], { env: { PORT: 'abc' } })
  t.same(await process.exited, { code: 1, signal: null })
  t.same(process.lines, ['PORT: Expected an integer from 0 to 65535, got "abc"'])
})
