/** Who waits for a turn: a list of links, as an array would be moved as a whole whenever its first item leaves. */
interface Waiting {
  readonly begin: () => void
  next: Waiting | null
}

/** Runs tasks in the order in which they came, at most so many at a time. */
export function takeTurns(limit: number): <T>(task: () => Promise<T>) => Promise<T> {
  let running = 0
  let first: Waiting | null = null
  let last: Waiting | null = null

  return async (task) => {
    if (running < limit) running++
    else await new Promise<void>(join)
    try {
      return await task()
    } finally {
      handOver()
    }
  }

  function join(begin: () => void): void {
    const joined = { begin, next: null }
    if (last) last.next = joined
    else first = joined
    last = joined
  }

  /** Whoever ends hands its turn to the first in line. */
  function handOver(): void {
    if (!first) {
      running--
      return
    }
    const { begin, next } = first
    first = next
    if (!first) last = null
    begin()
  }
}
