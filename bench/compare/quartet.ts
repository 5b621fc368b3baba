import { startGatewayProcess } from '../../test/e2e/processes.ts'
import { startRedis } from '../../test/helper.ts'
import { atOnce, atPace, quantile } from './load.ts'
import { getJson, post } from './post.ts'
import { doneBy, startNetwork, startService, type Scope, type Service } from './processes.ts'
import {
  askOther,
  BURST,
  DEAD_MS,
  NETWORK_MS,
  newOrder,
  OTHER_MS,
  othersOf,
  PACE_MS,
  PATIENCE_MS,
  SINGLE,
  SLOTS,
  WORK_MS,
  type BurstFigures,
  type Story,
} from './story.ts'

/** What only this side has. */
export interface QuartetStory extends Story {
  /** The result itself as the answer to the POST, `Prefer: wait`. */
  readonly hybridMs: number
  /** The burst again, with twice the processes that call the services. */
  readonly twice: BurstFigures
}

/** The last event of an order that goes through three steps without trouble. */
const LAST_SEQ = 7

interface Gateway {
  /** Over the network, as its clients see it. */
  readonly url: string
  /** A over the network, as everybody sees it. */
  readonly toA: string
  readonly services: [Service, Service, Service]
  readonly addConsumers: () => Promise<void>
}

interface Order {
  readonly id: string
  readonly ms: number
}

interface Ended {
  readonly status: string
  readonly finishedAt: number
}

/** (b) client → gateway, and the same three services as steps. */
export async function tellQuartet(t: Scope): Promise<QuartetStory> {
  const { url, toA, services, addConsumers } = await startQuartet(t)
  const [a, b, c] = services
  await singles(url)
  const { answeredMs, doneMs, hybridMs } = await singles(url)

  const before = await doneBy([a, b])
  c.process.child.kill('SIGSTOP')
  const [orders, others] = await Promise.all([
    atPace(PACE_MS, DEAD_MS, () => submit(url)),
    atPace(OTHER_MS, DEAD_MS, () => askOther(toA)),
  ])
  const after = await doneBy([a, b])
  c.process.child.kill('SIGCONT')
  const backAt = Date.now()
  const accepted = orders.filter((order) => order !== null)
  const done = await endOf(url, accepted)

  const burst = await tellBurst(url, a)
  await addConsumers()
  const twice = await tellBurst(url, a)
  const all = 4 * SINGLE + accepted.length + burst.accepted + twice.accepted
  const ended = 4 * SINGLE + done.filter(isDone).length + burst.done + twice.done
  // A service that has worked for more orders, or for fewer, than were accepted has lost one or done it twice.
  const differences = (await doneBy(services)).map((count) => Math.abs(all - count))
  return {
    answeredMs,
    doneMs,
    hybridMs,
    dead: {
      orders: orders.length,
      accepted: accepted.length,
      answeredMs: quantile(msOf(accepted), 0.5),
      done: after.map((done, index) => done - (before[index] ?? 0)),
      ...othersOf(others),
    },
    back: {
      done: done.filter(isDone).length,
      lastMs: Math.max(...done.map(({ finishedAt }) => finishedAt)) - backAt,
    },
    burst,
    twice,
    lost: Math.max(all - ended, ...differences),
  }
}

async function startQuartet(t: Scope): Promise<Gateway> {
  const redis = await startRedis(t)
  const services = await Promise.all(WORK_MS.map((workMs) => startService(t, { workMs, slots: SLOTS })))
  const [a, b, c] = services as [Service, Service, Service]
  const urls = await startNetwork(t, NETWORK_MS, [a.port, b.port, c.port])
  const steps = urls.map((url, index) => ({
    queue: ['a', 'b', 'c'][index],
    http: { url, timeout_ms: PATIENCE_MS, concurrency: SLOTS / 2 },
    attempts: 5,
    backoff_ms: 200,
  }))
  const types = { order: { steps } }
  const gateway = await startGatewayProcess(t, { redis, types, roles: 'http,collect' })
  const addConsumers = async () => {
    const { child } = await startGatewayProcess(t, { redis, types, roles: 'workers' })
    if (child.exitCode !== null) throw new Error('Expected the consumers to run, got an end')
  }
  await addConsumers()
  const [url = ''] = await startNetwork(t, NETWORK_MS, [Number(new URL(gateway.url).port)])
  return { url, toA: urls[0] ?? '', services: [a, b, c], addConsumers }
}

async function singles(url: string): Promise<{ answeredMs: number; doneMs: number; hybridMs: number }> {
  const [answered, done, hybrid]: number[][] = [[], [], []]
  for (let n = 0; n < SINGLE; n++) {
    const since = performance.now()
    const order = await submit(url)
    answered?.push(performance.now() - since)
    await endOf(url, order ? [order] : [])
    done?.push(performance.now() - since)
  }
  for (let n = 0; n < SINGLE; n++) {
    const { status, ms } = await post(`${url}/jobs`, body(), {
      timeoutMs: PATIENCE_MS,
      headers: { prefer: `wait=${PATIENCE_MS / 1_000}` },
    })
    if (status !== 200) throw new Error(`Expected the result as the answer, got ${status}`)
    hybrid?.push(ms)
  }
  const [answeredMs, doneMs, hybridMs] = [answered, done, hybrid].map((times = []) => quantile(times, 0.5))
  return { answeredMs: answeredMs ?? NaN, doneMs: doneMs ?? NaN, hybridMs: hybridMs ?? NaN }
}

async function tellBurst(url: string, a: Service): Promise<BurstFigures> {
  const since = Date.now()
  const orders = await atOnce(BURST, () => submit(url))
  const accepted = orders.filter((order) => order !== null)
  const ended = await endOf(url, accepted)
  const { most } = await a.figures()
  return {
    accepted: accepted.length,
    answeredMs: [quantile(msOf(accepted), 0.5), quantile(msOf(accepted), 0.99)],
    done: ended.filter(isDone).length,
    lastMs: Math.max(...ended.map(({ finishedAt }) => finishedAt)) - since,
    mostInA: most,
  }
}

const body = () => `{"type":"order","input":${newOrder()}}`

/** @returns null if it was not accepted */
async function submit(url: string): Promise<Order | null> {
  const { status, text, ms } = await post(`${url}/jobs`, body(), { timeoutMs: PATIENCE_MS })
  return status === 202 ? { id: (JSON.parse(text) as { job_id: string }).job_id, ms } : null
}

/** How each order has ended, once all have: a long poll after another. */
async function endOf(url: string, orders: readonly Order[]): Promise<Ended[]> {
  const ended: Ended[] = []
  for (const { id } of orders) {
    for (let after = LAST_SEQ - 1; ;) {
      const job = await getJson<{ status: string; seq: number; finished_at: string | null }>(
        `${url}/jobs/${id}?after=${after}`,
        { prefer: 'wait=60' },
      )
      after = job.seq
      if (job.finished_at === null) continue
      ended.push({ status: job.status, finishedAt: Date.parse(job.finished_at) })
      break
    }
  }
  return ended
}

function isDone({ status }: Ended): boolean {
  return status === 'completed'
}

function msOf(orders: readonly Order[]): number[] {
  return orders.map(({ ms }) => ms)
}
