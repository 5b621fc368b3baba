import { readFileSync } from 'node:fs'

/** The processes whose work is counted, by what they are. */
export type Watched = Readonly<Record<'gateway' | 'redis' | 'worker', readonly number[]>>

/** Microseconds of CPU, of the watched and of the load client itself. */
export type Cpu = Readonly<Record<keyof Watched | 'load', number>>

export interface Meter {
  /** What was used since, and how long that was. */
  read(): { cpu: Cpu; seconds: number }
}

/** Linux counts in hundredths of a second, whatever its kernel does (USER_HZ). */
const TICK_US = 10_000

export function startMeter(watched: Watched): Meter {
  const all = { ...watched, load: [process.pid] }
  const used = () =>
    Object.fromEntries(
      Object.entries(all).map(([name, pids]) => [name, pids.reduce((sum, pid) => sum + usedBy(pid), 0)]),
    ) as Cpu
  const before = used()
  const since = performance.now()
  return {
    read() {
      const seconds = (performance.now() - since) / 1_000
      const after = used()
      const cpu = {
        gateway: after.gateway - before.gateway,
        redis: after.redis - before.redis,
        worker: after.worker - before.worker,
        load: after.load - before.load,
      }
      return { cpu, seconds }
    },
  }
}

/** User and system time of a process with all its threads. */
function usedBy(pid: number): number {
  const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
  // The name, in parentheses, may hold anything.
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
  return (Number(fields[11]) + Number(fields[12])) * TICK_US
}
