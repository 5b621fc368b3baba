import { setTimeout as delay } from 'node:timers/promises'
import { Redis } from 'ioredis'
import { json, openConnection } from './http.ts'

/** Some events. Those of a burst are all sent before the first is answered. */
export interface Round {
  readonly count: number
  readonly interval_ms?: number
  readonly at_once?: boolean
}

/** Who tells the events that a crowd hears. */
export interface Speaker {
  /** Where they are heard. */
  readonly path: string
  /** Has the next round told. */
  speak(round: Round): Promise<void>
  /** Ends the streams, unless they end by themselves. */
  finish(): Promise<void>
}

interface Hall {
  readonly url: string
  readonly redisUrl: string
  readonly rounds: readonly Round[]
}

export const speakers = { worker, publisher } satisfies Record<string, (hall: Hall) => Promise<Speaker>>

const GATE = 'bench:gate'

/** A job whose worker begins each round when the gate is opened. */
async function worker({ url, redisUrl, rounds }: Hall): Promise<Speaker> {
  const connection = openConnection(url)
  const body = JSON.stringify({ type: 'ticks', input: { rounds, gate: GATE } })
  const { status, text } = await connection.request({ method: 'POST', path: '/jobs', headers: json, body })
  await connection.close()
  const id = /"job_id":"([^"]+)"/.exec(text)?.[1]
  if (status !== 202 || id === undefined) throw new Error(`Expected 202 with a job, got ${status}: ${text}`)
  const redis = new Redis(redisUrl)
  return {
    path: `/jobs/${id}/events`,
    speak: async () => void (await redis.lpush(GATE, 'go')),
    finish: async () => redis.disconnect(),
  }
}

/** Publishes by POST what a job would have told, for a server that knows channels and no jobs. */
async function publisher({ url }: Hall): Promise<Speaker> {
  const connection = openConnection(url)
  let n = 0
  return {
    path: '/sub/crowd',
    async speak({ count, interval_ms: intervalMs = 0, at_once: isAtOnce = false }) {
      const startedAt = performance.now()
      const sent: Promise<void>[] = []
      for (let i = 0; i < count; i++) {
        const wait = startedAt + i * intervalMs - performance.now()
        if (intervalMs > 0 && wait > 0) await delay(wait)
        const published = publish('job.progress', { output: { n: n++, at: performance.now() } })
        if (isAtOnce) sent.push(published)
        else await published
      }
      await Promise.all(sent)
    },
    async finish() {
      await publish('job.completed', {})
      await connection.request({ method: 'DELETE', path: '/pub/crowd' })
      await connection.close()
    },
  }

  async function publish(type: string, data: object): Promise<void> {
    const { status, text } = await connection.request({
      method: 'POST',
      path: '/pub/crowd',
      headers: { 'x-eventsource-event': type },
      body: envelope(type, data),
      idempotent: true,
    })
    if (status !== 201 && status !== 202) throw new Error(`Expected 201 or 202, got ${status}: ${text}`)
  }
}

/** As long as an event of a job is. */
function envelope(type: string, data: object): string {
  return JSON.stringify({
    seq: 100,
    type,
    timestamp: new Date().toISOString(),
    job_id: '01a2089e-12da-76c3-ab62-3da5e6305487',
    status: 'running',
    data,
  })
}
