import { ok, strictEqual } from 'node:assert'
import * as fc from 'fast-check'
import t from 'tap'
import { jobsOf, openFairQueue } from '../fair-queue.ts'
import { runs } from './runs.ts'

/** By how many starts one tenant may be ahead of another while both have jobs waiting: that of start-time fair queueing. */
const MOST_AHEAD = 2

const tenant = fc.constantFrom('a', 'b', 'c')
const priority = fc.constantFrom(0, 0, 0, 9)
const count = fc.integer({ min: 1, max: 12 })
const way = fc.constantFrom('intake' as const, 'enqueue' as const, 'comeDue' as const)
const step = fc.oneof(
  fc.record({ do: fc.constant('submit' as const), tenant, priority, count, way }),
  fc.record({ do: fc.constant('start' as const), count }),
  fc.record({ do: fc.constant('fail' as const), nth: fc.nat() }),
  fc.record({ do: fc.constant('finish' as const) }),
)
const steps = fc.array(step, { maxLength: 30, size: 'max' })

t.test(
  'while two tenants have jobs waiting they start as many, whatever happens, each in its order',
  async (t) => {
    const node = await openFairQueue(t)
    const { client, work } = node
    const property = fc.asyncProperty(steps, async (steps) => {
      await work.finish()
      await client.flushdb()
      const lines = new Map<string, string[]>()
      const startedOf = new Map<string, number>()
      /** Since when two have both had jobs waiting: how many the one was ahead then. */
      const since = new Map<string, number>()
      const failed = new Set<string>()

      for (const each of steps) {
        if (each.do === 'submit') {
          const delay = each.way === 'comeDue' ? { notBefore: Date.now() + 60_000 } : {}
          const jobs = jobsOf(each.tenant, each.count, { priority: each.priority, ...delay })
          const name = `${each.priority} ${each.tenant}`
          if (each.way === 'comeDue') await node.enqueue(...jobs)
          await node[each.way](...jobs)
          lines.set(name, [...(lines.get(name) ?? []), ...jobs.map(({ record }) => record.id)])
          compare()
        } else if (each.do === 'start') {
          for (let n = 0; n < each.count && (waiting() > 0 || failed.size > 0); n++) await start()
        } else if (each.do === 'fail' && work.held() > 0) {
          failed.add(await work.fail(each.nth % work.held()))
        } else if (each.do === 'finish') {
          await work.finish()
        }
      }
      while (waiting() > 0 || failed.size > 0) await start()

      function waiting(): number {
        return [...lines.values()].reduce((sum, ids) => sum + ids.length, 0)
      }

      async function start(): Promise<void> {
        await work.start(1)
        const id = work.started.at(-1) ?? ''
        // It has had its turn.
        if (failed.delete(id)) return
        const [name, ids] = [...lines].find(([, ids]) => ids.includes(id)) ?? ['', []]
        strictEqual(ids.shift(), id, 'a tenant’s jobs start in their order')
        const isFirst =
          name.startsWith('0 ') ||
          [...lines].every(([other, ids]) => other.startsWith('9 ') || ids.length === 0)
        ok(isFirst, 'what has a priority starts when nothing else waits')
        startedOf.set(name, (startedOf.get(name) ?? 0) + 1)
        compare()
      }

      function compare(): void {
        for (const [one, ofOne] of lines) {
          for (const [other, ofOther] of lines) {
            if (one === other || one[0] !== other[0]) continue
            const pair = `${one} ${other}`
            const ahead = (startedOf.get(one) ?? 0) - (startedOf.get(other) ?? 0)
            if (ofOne.length === 0 || ofOther.length === 0) since.delete(pair)
            else if (!since.has(pair)) since.set(pair, ahead)
            ok(
              ahead - (since.get(pair) ?? ahead) <= MOST_AHEAD,
              `${one} was more than ${MOST_AHEAD} ahead of ${other}`,
            )
          }
        }
      }
    })
    await fc.assert(property, runs(60))
    t.pass()
  },
)
