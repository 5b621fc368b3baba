import type { Scope } from '../scope.ts'
import { startGateway } from './gateway.ts'
import { atOnce, atPace, connectMany, quantile, say } from './load.ts'
import { tellModes, type ModeFigures } from './modes.ts'
import { endOf, isDone, msOf, submit } from './orders.ts'
import { doneBy, type Service } from './processes.ts'
import {
  askOther,
  BURST,
  DEAD_MS,
  OTHER_MS,
  othersOf,
  PACE_MS,
  SINGLE,
  WARM_UP,
  type BurstFigures,
  type Story,
} from './story.ts'

/** What only this side has. */
export interface QuartetStory extends Story {
  readonly modes: readonly ModeFigures[]
  /** The burst again, with twice the processes that call the services. */
  readonly twice: BurstFigures
}

/** (b) client → gateway, and the same three services as steps. */
export async function tellQuartet(t: Scope): Promise<QuartetStory> {
  const { url, toA, services, addConsumers } = await startGateway(t)
  const [a, b, c] = services
  say('Quartet: orders one after another')
  // Twice, as the first ones find everything cold.
  await oneByOne(url)
  const singles = await oneByOne(url)
  say('Quartet: the four modes')
  const modes = await tellModes(t, url)

  const before = await doneBy([a, b])
  say('Quartet: C is dead')
  c.process.child.kill('SIGSTOP')
  const [orders, others] = await Promise.all([
    atPace(PACE_MS, DEAD_MS, () => submit(url)),
    atPace(OTHER_MS, DEAD_MS, () => askOther(toA)),
  ])
  const after = await doneBy([a, b])
  say('Quartet: C is back')
  c.process.child.kill('SIGCONT')
  const backAt = Date.now()
  const done = await endOf(url, orders)

  say('Quartet: a burst')
  const warmUp = await tellBurst(url, a, WARM_UP)
  const burst = await tellBurst(url, a, BURST)
  await addConsumers()
  say('Quartet: a burst with twice the consumers')
  const twice = await tellBurst(url, a, BURST)
  const bursts = [warmUp, burst, twice]
  const sum = (counts: number[]) => counts.reduce((total, count) => total + count, 2 * SINGLE + modes.orders)
  const all = sum([orders.length, ...bursts.map(({ accepted }) => accepted)])
  const ended = sum([done.filter(isDone).length, ...bursts.map(({ done }) => done)])
  // A service that has worked for more orders, or for fewer, than were accepted has lost one or done it twice.
  const differences = (await doneBy(services)).map((count) => Math.abs(all - count))
  return {
    ...singles,
    modes: modes.figures,
    dead: {
      orders: orders.length,
      accepted: orders.filter(({ tries }) => tries === 1).length,
      answeredMs: quantile(msOf(orders), 0.5),
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

async function oneByOne(url: string): Promise<{ answeredMs: number; doneMs: number }> {
  const [answered, done]: [number[], number[]] = [[], []]
  while (done.length < SINGLE) {
    const since = performance.now()
    const order = await submit(url)
    answered.push(order.ms)
    await endOf(url, [order])
    done.push(performance.now() - since)
  }
  return { answeredMs: quantile(answered, 0.5), doneMs: quantile(done, 0.5) }
}

async function tellBurst(url: string, a: Service, count: number): Promise<BurstFigures> {
  await connectMany(count, `${url}/livez`)
  const since = Date.now()
  const orders = await atOnce(count, () => submit(url))
  const ended = await endOf(url, orders)
  const times = ended.map(({ finishedAt }) => finishedAt)
  const { most } = await a.figures()
  return {
    accepted: orders.length,
    again: orders.filter(({ tries }) => tries > 1).length,
    answeredMs: [quantile(msOf(orders), 0.5), quantile(msOf(orders), 0.99)],
    done: ended.filter(isDone).length,
    lastMs: Math.max(...times) - since,
    perSecond: (0.8 * times.length * 1_000) / (quantile(times, 0.9) - quantile(times, 0.1)),
    mostInA: most,
  }
}
