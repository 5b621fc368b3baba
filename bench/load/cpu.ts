import { readFileSync } from 'node:fs'

/** The processes whose work is counted, by what they are. */
export type Watched = Readonly<Record<'gateway' | 'redis' | 'worker', readonly number[]>>

/** Microseconds of CPU: of the watched, of the load client itself, and of all else on the machine. */
export type Cpu = Readonly<Record<keyof Watched | 'load' | 'others', number>>

export interface Meter {
  /** What was used since, and how long that was. */
  read(): { cpu: Cpu; seconds: number }
}

/** Linux counts in hundredths of a second, whatever its kernel does (USER_HZ). */
const TICK_US = 10_000

export function startMeter(watched: Watched): Meter {
  const before = readAll(watched)
  const since = performance.now()
  return {
    read() {
      const seconds = (performance.now() - since) / 1_000
      const after = readAll(watched)
      const used = (name: keyof typeof after) => after[name] - before[name]
      const own = {
        gateway: used('gateway'),
        redis: used('redis'),
        worker: used('worker'),
        load: used('load'),
      }
      const known = Object.values(own).reduce((sum, us) => sum + us, 0)
      return { cpu: { ...own, others: Math.max(0, used('machine') - known) }, seconds }
    },
  }
}

function readAll({ gateway, redis, worker }: Watched) {
  const sum = (pids: readonly number[]) => pids.reduce((us, pid) => us + usedBy(pid), 0)
  return {
    gateway: sum(gateway),
    redis: sum(redis),
    worker: sum(worker),
    load: usedBy(process.pid),
    machine: usedByAll(),
  }
}

/** User and system time of a process with all its threads, microseconds. */
export function usedBy(pid: number): number {
  const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
  // The name, in parentheses, may hold anything.
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
  return (Number(fields[11]) + Number(fields[12])) * TICK_US
}

/** By everything, the kernel and what the host takes from this machine included. */
function usedByAll(): number {
  const [, ...ticks] = (readFileSync('/proc/stat', 'utf8').split('\n')[0] ?? '').split(/ +/).map(Number)
  const [user = 0, nice = 0, system = 0, , , irq = 0, softirq = 0, steal = 0] = ticks
  return (user + nice + system + irq + softirq + steal) * TICK_US
}
