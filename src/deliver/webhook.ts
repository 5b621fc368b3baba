import { setTimeout as delay } from 'node:timers/promises'
import type { FastifyBaseLogger } from 'fastify'
import type { Metrics } from '../metrics.ts'
import type { Claim, Settlement } from '../store/deliveries.ts'
import type { Store } from '../store/store.ts'
import type { Schedule } from './schedule.ts'
import type { createWebhookSender } from './send-webhook.ts'
import { cutOff, givenUp, settlementOf } from './settlement.ts'

/** Tries that one node has under way, to all origins together: those of many that hang at once leave room for others. */
const CONCURRENCY = 1_024
/** Tries that are claimed at a time. */
const MOST_AT_ONCE = 256
/** A claim runs out some time after a try must have ended, and is then made again by another node. */
const LEASE_MS = 25_000
/** What is due is looked for at least so often, should nothing have told of it. */
const LOOK_MS = 5_000
const RETRY_MS = 500

export interface WebhookParts {
  readonly store: Store
  readonly sender: ReturnType<typeof createWebhookSender>
  /** Cuts off the tries under way. */
  readonly disconnect: () => Promise<void>
  readonly schedule: Schedule
  readonly metrics: Pick<Metrics, 'tries' | 'deadLetters'>
  readonly log: FastifyBaseLogger
}

export interface Webhooks {
  /** Begins no more tries, and gives those under way so long. */
  close(graceMs: number): Promise<void>
}

/** Consumes the callback queue: delivers events to return addresses, at least once, those of a job in order. */
export function startWebhooks(parts: WebhookParts): Webhooks {
  const { store, log } = parts
  const underWay = new Set<Promise<void>>()
  const closing = new AbortController()
  let wakeUp: () => void = () => undefined
  let wakeAt = 0
  const unfollow = store.deliveries.onDue((at) => wake(at))
  const looped = loop()

  return {
    async close(graceMs) {
      closing.abort()
      wake(0)
      unfollow()
      await looped
      await Promise.race([Promise.all(underWay), delay(graceMs, undefined, { ref: false })])
      // Those that are left are cut off, and give their claims back.
      await parts.disconnect()
      await Promise.all(underWay)
    },
  }

  async function loop(): Promise<void> {
    let wasFailing = false
    while (!closing.signal.aborted) {
      wakeAt = Date.now() + LOOK_MS
      try {
        const free = Math.min(CONCURRENCY - underWay.size, MOST_AT_ONCE)
        if (free > 0) {
          const { claims, nextAt } = await store.deliveries.claim(free, LEASE_MS)
          if (closing.signal.aborted) await Promise.all(claims.map(release))
          else for (const claim of claims) begin(claim)
          if (nextAt !== null) wake(nextAt)
        }
        if (wasFailing) log.info('delivering webhooks again')
        wasFailing = false
      } catch (err) {
        if (!wasFailing) log.warn({ err }, 'the callback queue cannot be read; trying again')
        wasFailing = true
        wake(Date.now() + RETRY_MS)
      }
      await sleep()
    }
  }

  function begin(claim: Claim): void {
    const task = deliver(parts, claim, closing.signal).finally(() => {
      underWay.delete(task)
      wake(0)
    })
    underWay.add(task)
  }

  /** Claimed too late to be tried here. */
  async function release(claim: Claim): Promise<void> {
    await store.deliveries.settle(claim, cutOff(claim, store.now())).catch(() => undefined)
  }

  /** Looks again at a time by the store's clock, or sooner. */
  function wake(at: number): void {
    const local = at === 0 ? 0 : at - store.now() + Date.now()
    if (local >= wakeAt) return
    wakeAt = local
    wakeUp()
  }

  async function sleep(): Promise<void> {
    while (Date.now() < wakeAt) {
      const timer = new AbortController()
      const woken = new Promise<void>((resolve) => (wakeUp = resolve))
      await Promise.race([
        woken,
        delay(wakeAt - Date.now(), undefined, { signal: timer.signal }).catch(() => undefined),
      ])
      timer.abort()
    }
  }
}

async function deliver(parts: WebhookParts, claim: Claim, closing: AbortSignal): Promise<void> {
  const { store, metrics, log } = parts
  const { id, tenant, seq } = claim
  try {
    const at = store.now()
    const settlement = await attempt(parts, claim, at).catch((error: unknown) => {
      if (!closing.aborted) throw error
      return cutOff(claim, at)
    })
    if (settlement.record.outcome === 'dead') {
      metrics.deadLetters.inc()
      log.warn({ job_id: id, tenant, seq, ...settlement.record }, 'a delivery is dead')
    }
    await insist(() => store.deliveries.settle(claim, settlement), closing)
  } catch (err) {
    // The claim runs out, and the event is delivered again, under the same id.
    log.warn({ err, job_id: id, tenant, seq }, 'a delivery could not be recorded; it is made again')
  }
}

async function attempt(
  { sender, schedule, metrics }: WebhookParts,
  claim: Claim,
  at: number,
): Promise<Settlement> {
  const { id, tenant, seq, event, url } = claim
  if (event === null)
    return givenUp(claim, 'trimmed', 'The journal no longer had the event when its turn came', at)
  if (claim.isOverdue)
    return givenUp(claim, 'circuit_open', 'The receiver failed for too long to be tried any more', at)

  // Stamped by the store's clock: a receiver takes what a wrong one says for a replay.
  const outcome = await sender.send({ tenant, url, id: `${id}.${seq}`, body: event.text, now: at })
  const settlement = settlementOf(schedule, claim, outcome, at)
  metrics.tries.inc({ outcome: settlement.record.outcome })
  return settlement
}

/** Until its claim runs out, a result is worth trying to keep: it saves the receiver a repetition. */
async function insist(settle: () => Promise<void>, closing: AbortSignal): Promise<void> {
  for (const until = Date.now() + LEASE_MS - 15_000; ;) {
    try {
      return await settle()
    } catch (error) {
      if (closing.aborted || Date.now() > until) throw error
      await delay(RETRY_MS)
    }
  }
}
