import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'
import { Worker } from 'bullmq'
import t, { type Test } from 'tap'
import { all, isTerminal, ndjson, seqOf } from '../e2e/modes.ts'
import { startGateway, type TestGateway } from '../gateway.ts'
import { startRedis, type TestRedis } from '../helper.ts'
import { startProxy, type Cut, type Proxy } from './proxy.ts'

/*
 * One job's life, cut off at each of the gateway's commands in turn: what it had written by then is all that another
 * node has to go by. Each life has a database of its own, so that nothing but itself is in its way.
 */

const types = { two: { steps: ['first', 'second'], attempts: 2, backoff_ms: 100 } }
const SPARE = 2
/** Lives that are begun at a time: more would be late for each other's time limits. All of them wait at the same time. */
const BEGUN_AT_ONCE = 4
/** What a dead node may hold for longest: a look at a job (30 s), then the claim of a delivery (25 s). */
const TAKE_OVER_MS = 90_000
const UUID = /[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}/

const redis = await startRedis(t, { args: ['--databases', '512', '--maxclients', '20000'] })
const receiver = await startReceiver(t)
const begin = createTurnstile(BEGUN_AT_ONCE)
let databases = 0

t.test('a gateway cut off after any command of a job’s life leaves it whole', async (t) => {
  const whole = await live(t, { at: 0, isForwarded: true })
  t.equal(whole.verdict, 'ended', 'a life that is not cut')
  const lives = [whole]
  let isThrough = false
  // A life is not the same to the last command, so it goes on until one has not come to its cut, in both forms.
  for (let from = 1, to = whole.commands + SPARE; !isThrough; from = to + 1, to += SPARE) {
    const points = Array.from({ length: to - from + 1 }, (_, index) => from + index)
    const cuts = points.flatMap((at) => [true, false].map((isForwarded) => ({ at, isForwarded })))
    const batch = await Promise.all(cuts.map((cut) => live(t, cut)))
    lives.push(...batch)
    isThrough = batch.slice(-2).every(({ isCut }) => !isCut)
  }
  report(t, 'cut off in mid life', lives)
})

t.test('a POST that was cut off may be sent again with its key, and makes one job', async (t) => {
  const cuts = [1, 2, 3, 4].flatMap((at) => [true, false].map((isForwarded) => ({ at, isForwarded })))
  const lives = await Promise.all(cuts.map((cut) => live(t, cut, 'key')))
  t.ok(
    lives.some(({ isPromised }) => !isPromised),
    'some requests were cut off',
  )
  report(t, 'cut off, sent again with its key', lives)
})

interface Life {
  readonly cut: Pick<Cut, 'at' | 'isForwarded'>
  /** Whether it came to the cut. */
  readonly isCut: boolean
  /** Whether the client had its 202, from the gateway that was then cut off. */
  readonly isPromised: boolean
  /** How many commands of the job the gateway sent. */
  readonly commands: number
  /** What became of it; anything but the two is what is wrong. */
  readonly verdict: 'ended' | 'absent' | (string & {})
  /** Deliveries beyond the first of each event. */
  readonly repeated: number
}

/** Lives one life up to its cut, lets another gateway take over, and judges what became of the job. */
async function live(t: Test, cut: Life['cut'], key?: string): Promise<Life> {
  const db = databases++
  const hook = receiver.open(String(db))
  const connect: TestRedis['connect'] = (options) => redis.connect({ ...options, db })
  const direct = { ...redis, connect, url: `${redis.url}/${db}` }
  const body = { type: 'two', input: { db }, callback_url: hook.url, callback_events: ['*'] }
  const post = (node: TestGateway) => node.post(body, key === undefined ? {} : { 'idempotency-key': key })

  const { proxy, isCut, promised, workers, closing, heir } = await begin(async () => {
    const proxy = await startProxy(t, redis.port, {
      ...cut,
      counts: (words) => words.some((word) => UUID.test(word)) || isClaim(words),
    })
    const url = `redis://127.0.0.1:${proxy.port}/${db}`
    const node = await startGateway(t, types, { redis: { ...direct, url } })
    const promised = await post(node).then(idOf)
    if (promised === null && !proxy.isCut) throw new Error('Expected 202 before the cut, got another answer')
    const workers = await run(t, direct, hook, proxy)
    await settled(connect(), proxy)
    const { isCut } = proxy
    proxy.sever()
    await proxy.cut
    // Its process is gone; what it is here must end too, without its Redis.
    const closing = node.app.close()
    return { proxy, isCut, promised, workers, closing, heir: await startGateway(t, types, { redis: direct }) }
  })

  const again = key === undefined ? null : await idOf(await post(heir))
  const id = again ?? promised ?? proxy.counted.flat().join().match(UUID)?.[0] ?? null
  const isPromised = promised !== null
  const verdict =
    again !== null && isPromised && again !== promised
      ? `the key made ${promised} and then ${again}`
      : await judge(connect(), heir, id, hook, isPromised || again !== null)
  await Promise.all([closing, heir.app.close(), ...workers.map((worker) => worker.close(true))])
  const repeated = hook.bodies.length - new Set(hook.bodies).size
  return { cut, isCut, isPromised, commands: proxy.counted.length, verdict, repeated }
}

/** A claim of deliveries names no job; which one it has got is in the answer. */
function isClaim([name = '', ...words]: readonly string[]): boolean {
  return /^eval/i.test(name) && words.includes('{quartet}:callbacks')
}

/** One thing after the other, each once the one before has been heard of: a life takes the same course every time. */
async function run(t: Test, direct: TestRedis, hook: Hook, { cut }: Proxy): Promise<Worker[]> {
  const heard = (seq: number) => Promise.race([hook.heard(seq), cut])
  await heard(1)
  const first = await work(t, direct, 'first', () => heard(2))
  await heard(3)
  const second = await work(t, direct, 'second', () => heard(4))
  await heard(5)
  return [first, second]
}

/** A plain worker, which Redis sees whatever becomes of the gateway. */
async function work(
  t: Test,
  direct: TestRedis,
  queue: string,
  pause: () => Promise<unknown>,
): Promise<Worker> {
  const connection = direct.connect({ maxRetriesPerRequest: null })
  const worker = new Worker(queue, async ({ data }) => pause().then(() => data as unknown), { connection })
  worker.on('error', () => undefined)
  t.teardown(() => worker.close(true))
  await worker.waitUntilReady()
  return worker
}

type Client = ReturnType<TestRedis['connect']>

async function judge(
  client: Client,
  heir: TestGateway,
  id: string | null,
  hook: Hook,
  isPromised: boolean,
): Promise<Life['verdict']> {
  const jobs = await client.keys('{quartet}:job:*')
  if (jobs.length > 1) return `${jobs.length} jobs`
  const isAbsent = id === null || (await client.keys(`*${id}*`)).length === 0
  if (isAbsent) return isPromised ? 'promised, and absent' : 'absent'

  const until = Date.now() + TAKE_OVER_MS
  const journal = await Promise.race([
    all(ndjson(heir.url, id, 0)),
    delay(TAKE_OVER_MS, null, { ref: false }),
  ])
  if (!journal) return 'never ended'
  if (journal.some((text, index) => seqOf(text) !== index + 1))
    return `a journal of ${journal.map(seqOf).join()}`
  if (journal.filter(isTerminal).length !== 1) return 'not one terminal event'
  if (!/"type":"job.completed"/.test(journal.at(-1) ?? '')) return journal.at(-1) ?? ''

  await Promise.race([hook.heard(journal.length), delay(until - Date.now(), null, { ref: false })])
  const first = [...new Set(hook.bodies)]
  // In order of seq by first arrival, each the very bytes, none missing and none made up.
  if (first.join('\n') !== journal.join('\n'))
    return `delivered ${first.map(seqOf).join()} of ${journal.length}`
  return 'ended'
}

/** Waits until the delivery of the last event is put on record, or never will be. */
async function settled(client: Client, proxy: Proxy): Promise<void> {
  while (!proxy.isCut) {
    const [job] = await client.keys('{quartet}:job:*')
    if (job && (await client.hget(job, 'delivering')) === null) return
    await delay(20)
  }
}

function report(t: Test, name: string, lives: readonly Life[]): void {
  const many = (is: (life: Life) => boolean) => lives.filter(is).length
  const points = Math.max(...lives.filter(({ isCut }) => isCut).map(({ cut }) => cut.at))
  const repeated = lives.reduce((sum, life) => sum + life.repeated, 0)
  t.comment(
    `${name}: ${points} cut points, ${many(({ isCut }) => isCut)} cuts, ${many(({ isPromised }) => isPromised)} accepted, ` +
      `${many(({ verdict }) => verdict === 'ended')} ended, ${many(({ verdict }) => verdict === 'absent')} absent, ` +
      `${repeated} deliveries repeated`,
  )
  t.same(
    lives.filter(({ verdict }) => verdict !== 'ended' && verdict !== 'absent'),
    [],
    'every job has ended, or was never there',
  )
}

/** The job that an answer promises. */
async function idOf(answer: Response): Promise<string | null> {
  if (answer.status !== 202 && answer.status !== 200) return null
  return ((await answer.json()) as { job_id: string }).job_id
}

/** Lets so many tasks run at a time. */
function createTurnstile(limit: number): <T>(task: () => Promise<T>) => Promise<T> {
  const queue: (() => void)[] = []
  let running = 0
  return async (task) => {
    if (running === limit) await new Promise<void>((resolve) => queue.push(resolve))
    else running++
    try {
      return await task()
    } finally {
      // Whoever waits takes the place over.
      const next = queue.shift()
      if (next) next()
      else running--
    }
  }
}

interface Hook {
  readonly url: string
  /** What was delivered there, in the order it came. */
  readonly bodies: readonly string[]
  /** Resolves when the event with that seq has been delivered. */
  heard(seq: number): Promise<void>
}

/** Receives the webhooks of all lives, each at a path of its own. */
async function startReceiver(t: Test): Promise<{ open(name: string): Hook }> {
  const hooks = new Map<string, { bodies: string[]; look: Set<() => void> }>()
  const server = createServer((request, response) => {
    const chunks: Buffer[] = []
    request.on('data', (chunk: Buffer) => chunks.push(chunk))
    request.on('end', () => {
      const hook = hooks.get(request.url?.slice(1) ?? '')
      hook?.bodies.push(Buffer.concat(chunks).toString())
      response.writeHead(204).end(() => hook?.look.forEach((look) => look()))
    })
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => {
    server.close()
    server.closeAllConnections()
  })
  return {
    open(name) {
      const hook = { bodies: [] as string[], look: new Set<() => void>() }
      hooks.set(name, hook)
      return {
        url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/${name}`,
        bodies: hook.bodies,
        heard: (seq) =>
          new Promise((resolve) => {
            const look = (): void => {
              if (hook.bodies.some((body) => seqOf(body) === seq)) resolve()
            }
            hook.look.add(look)
            look()
          }),
      }
    },
  }
}
