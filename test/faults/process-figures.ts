import { readFileSync, readdirSync } from 'node:fs'
import type { TestProcess } from '../helper.ts'

/** For the `env` of a process that {@link memoryOf} is to be asked about. */
export const reportsMemory = { NODE_OPTIONS: '--import ./test/faults/report-memory.mjs' }

/** Bytes. `used` is what is left on and off the heap once its garbage is collected, `rss` all that the process has. */
export interface Memory {
  readonly used: number
  readonly rss: number
}

export async function memoryOf(process: TestProcess): Promise<Memory> {
  const reports = process.lines.filter((line) => line.startsWith('memory ')).length
  process.child.kill('SIGUSR2')
  const [, text = ''] = await process.waitForLine(new RegExp(`^memory ${reports + 1} (.*)$`))
  const { heapUsed, external, rss } = JSON.parse(text) as NodeJS.MemoryUsage
  return { used: heapUsed + external, rss }
}

/** Open file descriptors, sockets among them. */
export function descriptorsOf({ pid }: TestProcess): number {
  return readdirSync(`/proc/${pid}/fd`).length
}

/** Resident memory in bytes, now and at its highest. */
export function residentOf({ pid }: TestProcess): { now: number; peak: number } {
  const status = readFileSync(`/proc/${pid}/status`, 'utf8')
  const read = (name: string) => Number(new RegExp(`^${name}:\\s+(\\d+) kB`, 'm').exec(status)?.[1]) * 1_024
  return { now: read('VmRSS'), peak: read('VmHWM') }
}

export const kib = (bytes: number): string => `${(bytes / 1_024).toFixed(1)} KiB`
export const mib = (bytes: number): string => `${(bytes / 1_048_576).toFixed(1)} MiB`
