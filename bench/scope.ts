/** What a phase has started, and how it is ended: as a test of tap would, for test/helper.ts. */
export interface Scope {
  teardown(close: () => unknown): void
  comment(...lines: unknown[]): void
  passing(): boolean
}

const open = new Set<() => Promise<void>>()

/** Runs something and ends all that it has started, the last first; the output of its processes is shown if it fails. */
export async function withScope<T>(run: (t: Scope) => Promise<T>): Promise<T> {
  const closers: (() => unknown)[] = []
  let isPassing = true
  const close = async () => {
    open.delete(close)
    for (let next = closers.pop(); next; next = closers.pop()) await next()
  }
  open.add(close)
  try {
    return await run({
      teardown: (closer) => void closers.push(closer),
      comment: (...lines) => console.error(...lines),
      passing: () => isPassing,
    })
  } catch (error) {
    isPassing = false
    throw error
  } finally {
    await close()
  }
}

/** On ctrl-C everything is ended, the last first. */
export function endOnSignal(): void {
  for (const signal of ['SIGINT', 'SIGTERM'] as const) {
    process.once(signal, () => {
      void endAll().finally(() => process.exit(130))
    })
  }
}

async function endAll(): Promise<void> {
  for (const close of [...open].toReversed()) await close()
}
