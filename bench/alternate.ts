import type { Bench, Figure, Sample } from './figure.ts'
import { withScope } from './scope.ts'
import type { SideName } from './sides.ts'

export type Measured = Readonly<Record<SideName, readonly Sample[]>>

/**
 * Measures a figure in turns, A B B A A B …: what the machine does besides, and what slowly changes, meets both sides.
 * Each measurement has processes of its own, and an empty Redis.
 */
export async function alternate(bench: Bench, figure: Figure): Promise<Measured> {
  const measured: Record<SideName, Sample[]> = { baseline: [], quartet: [], floor: [] }
  const rounds = figure.rounds[bench.isQuick ? 'quick' : 'full']
  const sides = (bench.isQuick && figure.quickSides) || figure.sides
  for (let round = 0; round < rounds; round++) {
    for (const side of round % 2 === 0 ? sides : sides.toReversed()) {
      measured[side].push(await withScope((t) => figure.measure(t, bench, side)))
      await empty(bench)
    }
  }
  return measured
}

/** Also the append-only file: Redis would write it anew in the middle of a measurement. */
async function empty({ redis }: Bench): Promise<void> {
  const client = redis.connect()
  await client.flushall()
  await client.bgrewriteaof()
  while (/aof_rewrite_(in_progress|scheduled):1/.test(await client.info('persistence')));
  await client.quit()
}
