/** What a phase has started, and how it is ended: as a test of tap would, for test/helper.ts. */
export interface Scope {
  teardown(close: () => unknown): void
  comment(...lines: unknown[]): void
  passing(): boolean
}

const open = new Set<() => Promise<void>>()
let isEnding = false

/** Runs something and ends all that it has started, the last first; the output of its processes is shown if it fails. */
export async function withScope<T>(run: (t: Scope) => Promise<T>): Promise<T> {
  const closers: (() => unknown)[] = []
  let isPassing = true
  let closed: Promise<void> | null = null
  const close = () => (closed ??= closeAll(closers).finally(() => open.delete(close)))
  open.add(close)
  try {
    return await run({
      teardown: (closer) => void closers.push(closer),
      comment: (...lines) => console.error(...lines),
      passing: () => isPassing,
    })
  } catch (error) {
    // What fails because its processes were ended is no news.
    isPassing = isEnding
    if (isEnding) return await new Promise<never>(() => undefined)
    throw error
  } finally {
    await close()
  }
}

async function closeAll(closers: (() => unknown)[]): Promise<void> {
  for (let next = closers.pop(); next; next = closers.pop()) await next()
}

/** On ctrl-C everything is ended, the last first. */
export function endOnSignal(): void {
  for (const signal of ['SIGINT', 'SIGTERM'] as const) {
    process.once(signal, () => {
      isEnding = true
      void endAll().finally(() => process.exit(130))
    })
  }
}

async function endAll(): Promise<void> {
  for (const close of [...open].toReversed()) await close()
}
