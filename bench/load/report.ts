import type { Cpu } from './cpu.ts'

/** What a load client found out. */
export interface Report {
  /** Jobs or deliveries in the measured interval. */
  readonly count: number
  readonly seconds: number
  readonly cpu: Cpu
  readonly values: Readonly<Record<string, number>>
}

/** The value below which a share of the sorted ones lies. */
export function quantile(sorted: ArrayLike<number>, share: number): number {
  return sorted[Math.max(0, Math.ceil(sorted.length * share) - 1)] ?? NaN
}

/** p50 and p99 of milliseconds. */
export function latencies(ms: readonly number[]): { p50_ms: number; p99_ms: number } {
  const sorted = Float64Array.from(ms).toSorted()
  return { p50_ms: quantile(sorted, 0.5), p99_ms: quantile(sorted, 0.99) }
}
