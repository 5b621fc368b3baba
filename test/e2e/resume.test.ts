import t from 'tap'
import { all, isTerminal, ndjson, poll, seqOf, sse, websocket, type Mode } from './modes.ts'
import { startGatewayProcess, submit } from './processes.ts'
import { startRedis } from './redis.ts'

const CUTS = 100

t.test(
  `a client cut ${CUTS} times, changing mode and node at will, sees each event exactly once`,
  async (t) => {
    const redis = await startRedis(t)
    const nodes = await Promise.all([
      startGatewayProcess(t, { redis }),
      startGatewayProcess(t, { redis, roles: 'http,collect' }),
    ])
    const modes: readonly Mode[] = [sse, ndjson, poll, websocket]
    const pick = createPicker(t.name.length)

    let cuts = 0
    for (let round = 1; cuts < CUTS; round++) {
      const id = await submit(nodes[0].url, {
        type: 'chat',
        input: {
          prompt: `round ${round} of a conversation that is long enough to be cut often`,
          delay_ms_per_token: 3,
        },
      })
      const seen: string[] = []
      while (!seen.some(isTerminal)) {
        const mode = modes[pick(modes.length)] ?? sse
        const node = nodes[pick(nodes.length)] ?? nodes[0]
        let left = 1 + pick(6)
        for await (const text of mode(node.url, id, seen.length)) {
          seen.push(text)
          if (isTerminal(text)) break
          if (--left === 0) {
            cuts++
            break
          }
        }
      }
      const whole = await all(ndjson(nodes[1].url, id, 0))
      t.same(seen, whole, `round ${round}`)
      t.same(
        seen.map(seqOf),
        Array.from(seen, (_, index) => index + 1),
      )
    }
    t.comment(`${cuts} cuts`)
  },
)

/** A repeatable sequence of choices (a linear congruential generator, constants of Numerical Recipes). */
function createPicker(seed: number): (choices: number) => number {
  let state = seed >>> 0
  return (choices) => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
    return Math.floor((state / 2 ** 32) * choices)
  }
}
