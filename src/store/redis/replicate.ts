import type { Client } from './connect.ts'

/** How long replicas may take to confirm a write. Whatever else is asked on the connection waits behind it. */
const WAIT_MS = 500

/** Too few replicas have confirmed a write in time. It may be there nevertheless, and it may be lost in a failover. */
export class ReplicationError extends Error {
  override readonly name = 'ReplicationError'
}

/** Resolves when enough replicas have everything written so far, on this connection, to the node that has `key`. */
export type Replicate = (key: string) => Promise<void>

/**
 * Asks with WAIT, once for all that want to know: one question is under way at a time, and whoever comes meanwhile
 * shares the next. https://redis.io/docs/latest/commands/wait/
 *
 * @param replicas how many must confirm; 0 waits for nothing
 */
export function createReplicate(redis: Client, replicas: number): Replicate {
  if (replicas === 0) return async () => undefined
  const asked = new Map<string, { now: Promise<void>; next: Promise<void> | null }>()

  return (key) => {
    const node = redis.isCluster ? (/\{([^}]+)\}/.exec(key)?.[1] ?? key) : ''
    const current = asked.get(node)
    if (!current) return begin(node, key)
    // A question that is under way may have been asked before this write.
    current.next ??= current.now.catch(() => undefined).then(() => begin(node, key))
    return current.next
  }

  function begin(node: string, key: string): Promise<void> {
    const question = { now: ask(key), next: null }
    asked.set(node, question)
    const forget = () => {
      if (asked.get(node) === question && question.next === null) asked.delete(node)
    }
    question.now.then(forget, forget)
    return question.now
  }

  /** Behind a read that leads it to the right node of a cluster. */
  async function ask(key: string): Promise<void> {
    const replies = await redis.pipeline().exists(key).wait(replicas, WAIT_MS).exec()
    const failure = replies?.find(([error]) => error)?.[0]
    if (failure) throw failure
    const confirmed = Number(replies?.[1]?.[1] ?? 0)
    if (confirmed >= replicas) return
    throw new ReplicationError(`Expected ${replicas} replicas to confirm a write, got ${confirmed}`)
  }
}
