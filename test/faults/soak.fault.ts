import { setTimeout as delay } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { startReceiver } from '../e2e/modes.ts'
import { startGatewayProcess, type GatewayProcess } from '../e2e/processes.ts'
import { startRedis, type TestRedis } from '../helper.ts'
import { times } from './report.ts'
import { startSoakClients } from './soak-clients.ts'

const RUN_MS = times(600_000, 40_000)
const FAULT_EVERY_MS = 5_000
/** BullMQ's copies and events stay for a minute, journals for half of one. */
const SETTLE_MS = 180_000

const retention = { retention_s: 30 }
const types = {
  countdown: { steps: ['countdown'], ...retention },
  echo: { steps: ['echo'], ...retention },
  order: {
    steps: ['inventory', { queue: 'payment', attempts: 5, backoff_ms: 200 }, 'shipping', 'notification'],
    ...retention,
  },
}

t.test('under mixed load with a fault every 5 s nothing is lost, and everything is given back', async (t) => {
  const redis = await startRedis(t)
  const receiver = await startReceiver(t)
  // The first is never killed: what it holds on to is seen in the end.
  const stays = await startGatewayProcess(t, {
    redis,
    types,
    nodeArgs: ['--import', './test/faults/report-memory.mjs'],
  })
  const site = await startSite(t, redis)
  const urls = [stays.url, site.gateway().url]
  const clients = startSoakClients(urls, 12, receiver.url)
  await clients.whenChecked(100)
  await clients.pause()
  const before = await settled(redis, stays, null)
  clients.resume()

  const until = Date.now() + RUN_MS
  const faults = site.faults(stays, (url) => (urls[1] = url))
  const happened: Record<string, number> = {}
  while (Date.now() < until) {
    const next = Date.now() + FAULT_EVERY_MS
    const [name, fault] = faults[Math.floor(Math.random() * faults.length)] ?? ['none', async () => undefined]
    happened[name] = (happened[name] ?? 0) + 1
    await fault()
    await delay(Math.max(0, next - Date.now()))
  }
  await clients.stop()
  const after = await settled(redis, stays, before)
  const undelivered = clients.called.filter((id) => !receiver.received.some(({ body }) => body.includes(id)))

  const { checked, wrong, resumed, canceled, retries } = clients
  t.comment(
    `soak of ${RUN_MS / 1_000} s: ${checked.length} jobs, ${wrong.length} wrong, ${canceled} canceled, ` +
      `${resumed} resumed, ${retries} submitted again, ${clients.called.length} called back, ` +
      `${undelivered.length} of them undelivered · ${Object.entries(happened)
        .map(([name, n]) => `${n} × ${name}`)
        .join(', ')}`,
  )
  t.comment(`before: ${JSON.stringify(before)} · after: ${JSON.stringify(after)}`)
  t.same(wrong, [], 'every client saw its job’s whole journal, each event once')
  t.same(undelivered, [], 'every end was delivered')
  const started = (await redis.connect().hvals('{quartet}:started')).reduce(
    (sum, each) => sum + Number(each),
    0,
  )
  t.equal(started, checked.length, 'no job was made that no client knows of')
  t.same(excessOf(before, after), [], 'everything is given back')
})

interface Holdings {
  readonly heapMiB: number
  readonly descriptors: number
  readonly redisMiB: number
  readonly connections: number
  /** Quartet's keys, without those for idempotency, which stay for a day. */
  readonly entries: number
}

/** What may be more in the end: pools that have grown, and the jitter of a garbage collector. */
const allowance: Holdings = { heapMiB: 6, descriptors: 8, redisMiB: 2, connections: 8, entries: 3 }

function excessOf(before: Holdings, after: Holdings): string[] {
  const names = Object.keys(allowance) as (keyof Holdings)[]
  return names.filter((name) => after[name] > before[name] + allowance[name])
}

/** Takes stock until nothing is left of any job, and no more is held than before, for as long as that may take. */
async function settled(
  redis: TestRedis,
  gateway: GatewayProcess,
  before: Holdings | null,
): Promise<Holdings> {
  const client = redis.connect()
  for (const until = Date.now() + SETTLE_MS; ;) {
    const holdings = await take()
    const isSettled = before
      ? excessOf(before, holdings).length === 0
      : (await client.zcard('{quartet}:due')) === 0
    if (isSettled || Date.now() > until) return holdings
    await delay(1_000)
  }

  async function take(): Promise<Holdings> {
    const reports = gateway.lines.filter((line) => line.startsWith('memory ')).length
    gateway.child.kill('SIGUSR2')
    const [, memory = '{}'] = await gateway.waitForLine(new RegExp(`^memory ${reports + 1} (.*)`))
    const metrics = await (await fetch(`${gateway.url}/metrics`)).text()
    const info = await client.info()
    const keys = await client.keys('{quartet}:*')
    return {
      heapMiB: mib((JSON.parse(memory) as { heapUsed: number }).heapUsed),
      descriptors: Number(/^process_open_fds (\d+)/m.exec(metrics)?.[1]),
      redisMiB: mib(Number(/^used_memory_dataset:(\d+)/m.exec(info)?.[1]) - idempotencyBytes(keys)),
      connections: Number(/^connected_clients:(\d+)/m.exec(info)?.[1]),
      entries: keys.filter((key) => !key.includes(':idempotency:')).length,
    }
  }
}

/** What the keys that stay for a day take: about 250 bytes each (`MEMORY USAGE`, and Redis's tables). */
function idempotencyBytes(keys: readonly string[]): number {
  return 250 * keys.filter((key) => key.includes(':idempotency:')).length
}

function mib(bytes: number): number {
  return Math.round((bytes / 1_048_576) * 10) / 10
}

/** What may break: a second gateway, and two processes of workers. */
async function startSite(t: Test, redis: TestRedis) {
  const startGateway = () => startGatewayProcess(t, { redis, types, roles: 'http,collect,callbacks' })
  const startWorkers = () => startGatewayProcess(t, { redis, types, roles: 'workers' })
  let gateway = await startGateway()
  const workers = [await startWorkers(), await startWorkers()]
  const client = redis.connect()

  return {
    gateway: () => gateway,
    faults(stays: GatewayProcess, onMoved: (url: string) => void): [string, () => Promise<unknown>][] {
      const replace = async (signal: NodeJS.Signals) => {
        gateway.child.kill(signal)
        await gateway.exited
        gateway = await startGateway()
        onMoved(gateway.url)
      }
      return [
        ['worker killed', replaceWorkers],
        ['worker hung', () => hang(workers[0]?.pid, 3_000)],
        ['gateway killed', () => replace('SIGKILL')],
        ['gateway ended', () => replace('SIGTERM')],
        ['gateway hung', () => hang(gateway.pid, 4_000)],
        ['the other gateway hung', () => hang(stays.pid, 4_000)],
        ['Redis hung', () => hang(redis.pid, 2_000)],
        ['Redis killed', () => redis.stop().then(() => redis.start())],
        ['connections cut', () => client.call('CLIENT', 'KILL', 'TYPE', 'normal', 'SKIPME', 'yes')],
        ['live channels cut', () => client.call('CLIENT', 'KILL', 'TYPE', 'pubsub')],
        ['result queue cut', () => client.xtrim('bull:countdown:events', 'MAXLEN', '=', 1)],
      ]
    },
  }

  async function replaceWorkers(): Promise<void> {
    workers.shift()?.child.kill('SIGKILL')
    workers.push(await startWorkers())
  }

  async function hang(pid: number | undefined, ms: number): Promise<void> {
    if (pid === undefined) return
    process.kill(pid, 'SIGSTOP')
    await delay(ms)
    process.kill(pid, 'SIGCONT')
  }
}
