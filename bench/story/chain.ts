import { findFreePort } from '../../test/helper.ts'
import type { Scope } from '../scope.ts'
import { atOnce, atPace, connectMany, quantile, say } from './load.ts'
import { post, type Posted } from './post.ts'
import { doneBy, startNetwork, startService, type Service } from './processes.ts'
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
  WARM_UP,
  WORK_MS,
  type Story,
} from './story.ts'

/** (a) client → A → B → C and back: each service calls the next, and keeps its slot until that has answered. */
export async function tellChain(t: Scope): Promise<Story> {
  const { url, services } = await startChain(t)
  const [a, b, c] = services
  const order = () => post(url, newOrder(), { timeoutMs: PATIENCE_MS })
  say('chain: orders one after another')
  // Twice, as the first ones find everything cold.
  await oneByOne(order)
  const singleMs = median(await oneByOne(order))

  const before = await doneBy([a, b])
  say('chain: C is dead')
  c.process.child.kill('SIGSTOP')
  const [orders, others] = await Promise.all([
    atPace(PACE_MS, DEAD_MS, order),
    atPace(OTHER_MS, DEAD_MS, () => askOther(url)),
  ])
  const after = await doneBy([a, b])
  c.process.child.kill('SIGCONT')
  const backAt = performance.now()
  while (!isGood(await order()));
  const lastMs = performance.now() - backAt

  say('chain: a burst')
  await connectMany(BURST, url)
  await atOnce(WARM_UP, order)
  const burst = await atOnce(BURST, order)
  const served = burst.filter(isGood)
  const { most } = await a.figures()
  return {
    answeredMs: singleMs,
    doneMs: singleMs,
    dead: {
      orders: orders.length,
      accepted: orders.filter(isGood).length,
      answeredMs: median(orders),
      done: after.map((done, index) => done - (before[index] ?? 0)),
      ...othersOf(others),
    },
    back: { done: orders.filter(isGood).length, lastMs },
    burst: {
      accepted: served.length,
      again: 0,
      answeredMs: [median(served), quantile(msOf(served), 0.99)],
      done: served.length,
      lastMs: Math.max(...msOf(served)),
      perSecond: NaN,
      mostInA: most,
    },
    lost: 0,
  }
}

async function startChain(t: Scope): Promise<{ url: string; services: [Service, Service, Service] }> {
  const ports = await Promise.all(WORK_MS.map(findFreePort))
  const [url = '', ...nexts] = await startNetwork(t, NETWORK_MS, ports)
  const services = await Promise.all(
    WORK_MS.map((workMs, index) => {
      const next = nexts[index]
      const options = { workMs, slots: SLOTS, port: ports[index] ?? 0 }
      return startService(t, { ...options, ...(next && { next: { url: next, timeoutMs: PATIENCE_MS } }) })
    }),
  )
  const [a, b, c] = services as [Service, Service, Service]
  return { url, services: [a, b, c] }
}

async function oneByOne(order: () => Promise<Posted>): Promise<Posted[]> {
  const answers: Posted[] = []
  while (answers.length < SINGLE) answers.push(await order())
  return answers
}

function isGood({ status }: Posted): boolean {
  return status === 200
}

function median(answers: readonly Posted[]): number {
  return quantile(msOf(answers), 0.5)
}

function msOf(answers: readonly Posted[]): number[] {
  return answers.map(({ ms }) => ms)
}
