import type { Parameters } from 'fast-check'

/**
 * How often a property is tried: `times`, or FC_RUNS. FC_SEED and FC_PATH repeat a failure that was printed. Whoever waits
 * for something that never comes fails too, and on a slow machine there are fewer runs.
 */
export function runs(times: number): Parameters<unknown> {
  const { FC_RUNS, FC_SEED, FC_PATH } = process.env
  return {
    timeout: 5_000,
    interruptAfterTimeLimit: 30_000,
    numRuns: FC_RUNS === undefined ? times : Number(FC_RUNS),
    ...(FC_SEED !== undefined && { seed: Number(FC_SEED) }),
    ...(FC_PATH !== undefined && { path: FC_PATH }),
  }
}
