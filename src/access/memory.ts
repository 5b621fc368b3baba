/** What is remembered for some time: the oldest goes when there is too much of it. */
export interface Memory<Value> {
  get(key: string): Value | null
  set(key: string, value: Value, forMs: number): void
}

const MAX_ENTRIES = 10_000

export function createMemory<Value>(clock = () => performance.now()): Memory<Value> {
  const entries = new Map<string, { readonly value: Value; readonly until: number }>()
  return {
    get(key) {
      const entry = entries.get(key)
      if (!entry) return null
      if (entry.until > clock()) return entry.value
      entries.delete(key)
      return null
    },
    set(key, value, forMs) {
      entries.delete(key)
      entries.set(key, { value, until: clock() + forMs })
      const [oldest] = entries.keys()
      if (entries.size > MAX_ENTRIES && oldest !== undefined) entries.delete(oldest)
    },
  }
}
