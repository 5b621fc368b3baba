import { spawn } from 'node:child_process'
import { access, chmod, mkdir, mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { hostname, tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import type { Redis } from 'ioredis'
import t, { type Test } from 'tap'
import { type PrivateRedis, PrivateRedisError, startPrivateRedis } from '../src/store/private-redis.ts'
import { createConnect } from '../src/store/redis/connect.ts'
import { spawnProcess } from './helper.ts'

t.test('it answers on a socket that only this user can reach', async (t) => {
  const dir = join(await folder(t), '.quartet')
  const { url, pid } = await startedIn(t, dir)
  t.equal(url, `unix://${dir}/redis.sock`)
  t.equal(await processIdAt(t, url), pid)
  t.equal((await stat(dir)).mode & 0o777, 0o700)
  t.equal((await stat(join(dir, 'redis.sock'))).mode & 0o777, 0o700)
  t.equal((await stat(join(dir, 'redis.json'))).mode & 0o777, 0o600)
})

t.test('it keeps everything: append-only file, no eviction', async (t) => {
  const dir = await folder(t)
  const redis = connect(t, await startedIn(t, dir))
  t.same(await redis.config('GET', 'maxmemory-policy'), ['maxmemory-policy', 'noeviction'])
  t.same(await redis.config('GET', 'appendonly'), ['appendonly', 'yes'])
  t.match(await readFile(join(dir, 'redis.log'), 'utf8'), 'Configuration loaded')
})

t.test('data survives a stop and a start', async (t) => {
  const dir = await folder(t)
  const first = await startedIn(t, dir)
  await connect(t, first).set('greeting', 'hello')
  await first.stop()
  t.same(await first.exited, { code: 0, signal: null })

  const second = await startedIn(t, dir)
  t.not(second.pid, first.pid)
  t.equal(await connect(t, second).get('greeting'), 'hello')
})

t.test('stopping twice is stopping once', async (t) => {
  const redis = await startedIn(t, await folder(t))
  await Promise.all([redis.stop(), redis.stop()])
  await redis.stop()
  t.same(await redis.exited, { code: 0, signal: null })
})

t.test('a folder with spaces and quotes in its name is fine', async (t) => {
  const redis = await startedIn(t, join(await folder(t), `it's a "data" folder`))
  t.equal(await connect(t, redis).ping(), 'PONG')
})

t.test('a server that died leaves nothing that keeps the next one from starting', async (t) => {
  const dir = await folder(t)
  const first = await startedIn(t, dir)
  await connect(t, first).set('greeting', 'hello')
  process.kill(first.pid, 'SIGKILL')
  t.same(await first.exited, { code: null, signal: 'SIGKILL' })
  await access(join(dir, 'redis.sock'))

  const second = await startedIn(t, dir)
  t.equal(await connect(t, second).get('greeting'), 'hello')
})

t.test('a folder that another gateway uses is refused', async (t) => {
  const dir = await folder(t)
  const first = await startedIn(t, dir)
  const message = `Expected ${dir} to be free, got a redis-server already running there (pid ${first.pid})`
  await t.rejects(startPrivateRedis({ dir }), new PrivateRedisError(message))
  t.equal(await connect(t, first).ping(), 'PONG')
})

t.test('of two gateways that start at once, one gets the folder', async (t) => {
  const dir = await folder(t)
  const outcomes = await Promise.allSettled([startedIn(t, dir), startedIn(t, dir)])
  const failures = outcomes.flatMap((outcome) => (outcome.status === 'rejected' ? [outcome.reason] : []))
  t.match(failures, [{ message: /to be free, got a redis-server already running there/ }])
  t.equal(failures.length, 1)
})

t.test('a server that no gateway claims is left alone', async (t) => {
  const dir = await folder(t)
  const { pid } = await strayServer(t, dir)
  await t.rejects(startPrivateRedis({ dir }), { message: `(pid ${pid})` })
  t.equal(await processIdAt(t, `unix://${dir}/redis.sock`), pid)
  const redis = connect(t, { url: `unix://${dir}/redis.sock` })
  t.equal(await redis.ping(), 'PONG')
})

t.test('the server of a gateway that is gone is stopped, and its data kept', async (t) => {
  const dir = await folder(t)
  const url = `unix://${dir}/redis.sock`
  const stray = await strayServer(t, dir)
  await connect(t, { url }).set('greeting', 'hello')
  await writeFile(
    join(dir, 'redis.json'),
    JSON.stringify({ gateway: await deadPid(t), host: hostname(), url }),
  )

  const redis = await startedIn(t, dir)
  t.same(await stray.exited, { code: 0, signal: null })
  t.equal(await connect(t, redis).get('greeting'), 'hello')
})

t.test('the server of a gateway on another host is not taken for abandoned', async (t) => {
  const dir = await folder(t)
  const url = `unix://${dir}/redis.sock`
  const { pid } = await strayServer(t, dir)
  await writeFile(
    join(dir, 'redis.json'),
    JSON.stringify({ gateway: await deadPid(t), host: 'elsewhere', url }),
  )
  await t.rejects(startPrivateRedis({ dir }), { message: `(pid ${pid})` })
})

t.test('a claim that some other program now seems to hold does not stand in the way', async (t) => {
  const dir = await folder(t)
  await writeFile(join(dir, 'redis.json'), '{"gateway": 1, "host')
  t.equal(await connect(t, await startedIn(t, dir)).ping(), 'PONG')
})

t.test('it does not outlive a gateway that is killed', async (t) => {
  const dir = await folder(t)
  const gateway = spawnProcess(t, gatewayArgs(dir, 'console.log(redis.pid)'))
  const pid = Number((await gateway.waitForLine(/^\d+$/))[0])
  const redis = connect(t, { url: `unix://${dir}/redis.sock` })
  await redis.set('greeting', 'hello')
  const gone = new Promise((resolve) => redis.once('close', resolve))
  process.kill(gateway.pid, 'SIGKILL')
  await gone
  redis.disconnect()

  const next = await startedIn(t, dir)
  t.not(next.pid, pid)
  t.equal(await connect(t, next).get('greeting'), 'hello')
})

t.test('Ctrl-C reaches the gateway alone, which stops its server when it is done', async (t) => {
  const dir = await folder(t)
  const onInterrupt = `process.once('SIGINT', async () => {
    console.log(await client.ping())
    await redis.stop()
    client.disconnect()
    console.log('stopped')
  })
  console.log(process.pid)`
  const [program, ...args] = gatewayArgs(dir, onInterrupt)
  // A terminal sends SIGINT to the whole foreground process group.
  const gateway = spawn(program, args, { detached: true, stdio: ['ignore', 'pipe', 'inherit'] })
  t.teardown(() => gateway.kill('SIGKILL'))
  const lines = createInterface(gateway.stdout)[Symbol.asyncIterator]()
  t.equal((await lines.next()).value, String(gateway.pid))
  process.kill(-Number(gateway.pid), 'SIGINT')
  t.equal((await lines.next()).value, 'PONG')
  t.equal((await lines.next()).value, 'stopped')
  t.notOk(await exists(join(dir, 'redis.sock')))
  t.notOk(await exists(join(dir, 'redis.json')))
})

t.test('without a server on the PATH, the message says how to get one', async (t) => {
  const dir = await folder(t)
  const gateway = spawnProcess(t, gatewayArgs(dir, ''), { env: { PATH: join(dir, 'nothing') } })
  t.match(await gateway.exited, { code: 1 })
  const output = gateway.lines.join('\n')
  t.match(output, 'Expected redis-server or valkey-server on the PATH, got neither')
  t.match(output, 'apt-get install -y redis-server')
  t.match(output, 'brew install redis')
  t.match(
    output,
    /docker run .* redis:7 redis-server --appendonly yes\n *REDIS_URL=redis:\/\/127.0.0.1:6379 npm start/,
  )
  t.notOk(await exists(join(dir, 'redis.json')))
})

t.test('valkey-server does as well', async (t) => {
  const dir = await folder(t)
  const program = join(dir, 'valkey-server')
  await writeFile(program, '#!/bin/sh\nPATH=$REAL_PATH exec redis-server "$@"\n')
  await chmod(program, 0o755)
  const env = { PATH: `${dir}:/bin`, REAL_PATH: process.env.PATH ?? '' }
  const gateway = spawnProcess(t, gatewayArgs(`${dir}/data`, 'console.log("started"); await redis.stop()'), {
    env,
  })
  t.ok(await gateway.waitForLine(/^started$/))
})

t.test('a server that ends at once is reported with the last words of its log', async (t) => {
  const dir = await folder(t)
  await writeFile(join(dir, 'appendonlydir'), 'not a folder')
  await t.rejects(startPrivateRedis({ dir }), {
    message: /^Expected redis-server to start, got exit code 1 \(.*redis\.log\): .*appendonlydir/,
  })
  t.notOk(await exists(join(dir, 'redis.json')))
})

t.test('where the path is too long for a socket, it takes a port and a password', async (t) => {
  const dir = join(await folder(t), 'a-long-name'.repeat(10))
  const first = await startedIn(t, dir)
  const { password } = new URL(first.url)
  t.match(first.url, /^redis:\/\/:[0-9a-f]{48}@127\.0\.0\.1:\d+$/)
  await connect(t, first).set('greeting', 'hello')
  t.notMatch(await readFile(`/proc/${first.pid}/cmdline`, 'utf8').catch(() => ''), password)
  await t.rejects(connect(t, { url: first.url.replace(`:${password}@`, '') }).ping(), /NOAUTH/)
  await t.rejects(startPrivateRedis({ dir }), { message: `(pid ${first.pid})` })
  await first.stop()

  const second = await startedIn(t, dir)
  t.equal(await connect(t, second).get('greeting'), 'hello')
})

/** Short, unlike that of `t.testdir`: the path of a unix socket is limited. */
async function folder(t: Test): Promise<string> {
  const dir = await mkdtemp(join(tmpdir(), 'quartet-'))
  t.teardown(() => rm(dir, { recursive: true, force: true }))
  return dir
}

async function startedIn(t: Test, dir: string): Promise<PrivateRedis> {
  const redis = await startPrivateRedis({ dir })
  t.teardown(() => redis.stop())
  return redis
}

function connect(t: Test, { url }: Pick<PrivateRedis, 'url'>): Redis {
  const redis = createConnect(url, () => {})('blocking') as Redis
  t.teardown(() => redis.disconnect())
  return redis
}

async function processIdAt(t: Test, url: string): Promise<number> {
  const info = await connect(t, { url }).info('server')
  return Number(/^process_id:(\d+)/m.exec(info)?.[1])
}

/** A program that starts a private Redis in `dir`, then runs `code` with it as `redis`, and keeps on with a `client` of it. */
function gatewayArgs(dir: string, code: string): [string, ...string[]] {
  const script = `
    import { startPrivateRedis } from './src/store/private-redis.ts'
    import { createConnect } from './src/store/redis/connect.ts'
    const redis = await startPrivateRedis({ dir: ${JSON.stringify(dir)} })
    const client = createConnect(redis.url, () => {})('blocking')
    ${code}`
  return ['node', '--import', 'tsx', '--input-type=module', '--eval', script]
}

/** A server in `dir` as an earlier gateway would have run it, but started by nobody in particular. */
async function strayServer(t: Test, dir: string): Promise<ReturnType<typeof spawnProcess>> {
  await mkdir(dir, { recursive: true })
  const socket = ['--port', '0', '--unixsocket', join(dir, 'redis.sock')]
  const stray = spawnProcess(t, ['redis-server', ...socket, '--dir', dir, '--appendonly', 'yes'])
  await stray.waitForLine(/connections at/)
  return stray
}

async function deadPid(t: Test): Promise<number> {
  const { pid, exited } = spawnProcess(t, ['node', '--version'])
  await exited
  return pid
}

async function exists(path: string): Promise<boolean> {
  return access(path).then(
    () => true,
    () => false,
  )
}
