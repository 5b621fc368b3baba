import type { Parameters } from 'fast-check'

/**
 * How often a property is tried: `times`, fewer on a slow machine, or exactly FC_RUNS. FC_SEED and FC_PATH repeat a
 * failure that was printed. Whoever waits for something that never comes fails too.
 */
export function runs(times: number): Parameters<unknown> {
  const { FC_RUNS, FC_SEED, FC_PATH } = process.env
  return {
    timeout: 5_000,
    ...(FC_RUNS === undefined
      ? { numRuns: times, interruptAfterTimeLimit: 30_000 }
      : { numRuns: Number(FC_RUNS) }),
    ...(FC_SEED !== undefined && { seed: Number(FC_SEED) }),
    ...(FC_PATH !== undefined && { path: FC_PATH }),
  }
}
