import { setTimeout as delay } from 'node:timers/promises'
import t from 'tap'
import { Agent, request } from 'undici'
import { startGatewayProcess } from '../e2e/processes.ts'
import { startRedis } from '../helper.ts'
import { count } from './load.ts'
import { times } from './report.ts'

t.test(
  'of a burst nothing that was accepted is lost, and what is too much comes when it was told to',
  async (t) => {
    const burst = times(50_000, 5_000)
    const bound = burst / 2
    const redis = await startRedis(t)
    const types = { echo: { steps: ['echo'], max_waiting: bound, deadline_ms: 3_600_000 } }
    const gateways = await Promise.all([
      startGatewayProcess(t, { redis, types, roles: 'http,collect' }),
      startGatewayProcess(t, { redis, types, roles: 'http,collect' }),
    ])
    const agent = new Agent({ connections: 128 })
    t.teardown(() => agent.destroy())

    const since = Date.now()
    const accepted: string[] = []
    const refused: number[] = []
    let unanswered = 0
    await inParallel(burst, 256, async (n) => {
      const answer = await post(n)
      if (typeof answer === 'string') accepted.push(answer)
      else refused.push(answer)
    })
    const tookMs = Date.now() - since
    // Of a request that Redis did not answer in time the job may have been stored all the same.
    if (unanswered === 0) t.equal(accepted.length, bound, 'the bound is exact')
    else t.ok(accepted.length <= bound, 'the bound holds')
    t.equal(accepted.length + refused.length, burst)

    // Now there are workers: those who come back when they were told to find room.
    await startGatewayProcess(t, { redis, types, roles: 'workers' })
    const waits: number[] = []
    let again = 0
    await inParallel(refused.length, 256, async (n) => {
      for (;;) {
        const answer = await post(n)
        if (typeof answer === 'string') {
          accepted.push(answer)
          return
        }
        again++
        waits.push(answer)
        await delay(answer * 1_000)
      }
    })
    const counted = await count(gateways[0].url, accepted, 120_000)
    t.comment(
      `burst of ${burst}, bound ${bound}: ${accepted.length} accepted in the end, ${counted.ended} ended, ` +
        `${refused.length} refused at first (${unanswered} unanswered by Redis), ${again} more while it drained · ` +
        `${Math.round(burst / (tookMs / 1_000))} answers/s · Retry-After up to ${Math.max(...refused, ...waits)} s`,
    )
    t.equal(accepted.length, burst)
    t.same([counted.missing, counted.unfinished, counted.broken], [[], [], []])

    /** @returns the id, or in how many seconds to come again */
    async function post(n: number): Promise<string | number> {
      const { statusCode, headers, body } = await request(`${gateways[n % 2]?.url}/jobs`, {
        dispatcher: agent,
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: `{"type":"echo","input":${n}}`,
      })
      const answer = (await body.json()) as { job_id: string; code: string }
      if (statusCode === 202) return answer.job_id
      const retryAfterS = Number(headers['retry-after'])
      if (answer.code === 'queue_full') return retryAfterS
      if (answer.code !== 'store_unavailable')
        throw new Error(`Expected queue_full, got ${JSON.stringify(answer)}`)
      unanswered++
      await delay(retryAfterS * 1_000)
      return post(n)
    }
  },
)

async function inParallel(count: number, width: number, task: (n: number) => Promise<void>): Promise<void> {
  let next = 0
  await Promise.all(
    Array.from({ length: width }, async () => {
      while (next < count) await task(next++)
    }),
  )
}
