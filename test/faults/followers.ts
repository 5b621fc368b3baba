import assert from 'node:assert/strict'
import { all, isTerminal, ndjson, seqOf, sse, websocket, type Mode } from '../e2e/modes.ts'
import { submit } from '../e2e/processes.ts'

/*
 * Clients that follow jobs on a gateway that is going to be killed, and go on with another one from their cursor
 * (docs/PROTOCOL.md "Resuming and changing modes").
 */

const modes = { sse, ndjson, websocket } satisfies Record<string, Mode>

export interface Followers {
  /** Ids of the jobs whose streams were compared with their journals. */
  readonly followed: string[]
  /** How often a stream broke off and was resumed, by mode. */
  readonly resumed: Record<string, number>
  /** Ids of jobs whose events, as one client saw them, are not the journal. */
  readonly wrong: string[]
  /** Starts no more jobs; resolves when those under way have ended, and rejects with what no client may see. */
  stop(): Promise<void>
}

/**
 * @param urls the gateway that stays, and the one that is killed; the second may be replaced at any time
 * @param each how many clients there are of each mode
 */
export function startFollowers(urls: readonly string[], each: number, job: object): Followers {
  const [stays = ''] = urls
  const followed: string[] = []
  const resumed: Record<string, number> = {}
  const wrong: string[] = []
  const stopping = new AbortController()
  const clients = Object.entries(modes).flatMap(([name, mode]) =>
    Array.from({ length: each }, async () => {
      while (!stopping.signal.aborted) await follow(name, mode)
    }),
  )
  return {
    followed,
    resumed,
    wrong,
    async stop() {
      stopping.abort()
      await Promise.all(clients)
    },
  }

  async function follow(name: string, mode: Mode): Promise<void> {
    const id = await submit(stays, job)
    const seen: string[] = []
    try {
      for await (const text of mode(urls[1] ?? '', id, 0)) seen.push(text)
    } catch {
      // The gateway was killed, or had been: that is what a cursor is for.
    }
    if (!isTerminal(seen.at(-1) ?? '')) {
      if (seen.length > 0) resumed[name] = (resumed[name] ?? 0) + 1
      seen.push(...(await all(mode(stays, id, seqOf(seen.at(-1) ?? '{"seq":0,')))))
    }
    followed.push(id)
    const journal = await all(ndjson(stays, id, 0))
    try {
      assert.deepEqual(seen, journal)
    } catch {
      wrong.push(id)
    }
  }
}
