import { createRequire } from 'node:module'

/** How BullMQ would put a job into a queue, but for its id, time and data. */
export interface Addition {
  /** Whether tenants take turns in the queue (in-turns.lua), or jobs are served as they come (in-order.lua). */
  readonly isInTurns: boolean
  /** The keys of {@link inOrder} or {@link inTurns}. */
  readonly keys: readonly string[]
  /** Prefix of the queue's keys, with the colon at its end. */
  readonly prefix: string
  /** The name of the BullMQ job. */
  readonly name: string
  /** JSON of the BullMQ job's options, without `jobId`, `timestamp` and `priority`. */
  readonly options: string
}

/** What is in front of intake.lua: ours, BullMQ's script, and names of the queue's keys that both need in their order. */
export const inOrder = {
  front: 'in-order',
  script: 'addStandardJob-9',
  keys: ['wait', 'paused', 'meta', 'id', 'completed', 'delayed', 'active', 'events', 'marker'],
}
export const inTurns = {
  front: 'in-turns',
  script: 'addPrioritizedJob-9',
  keys: 'marker meta id prioritized delayed completed active events pc wait paused turns'.split(' '),
}
/** What is in front of put-off.lua. */
export const putOff = {
  script: 'addDelayedJob-6',
  keys: 'marker meta id delayed completed events'.split(' '),
}

/**
 * A script of BullMQ as a Lua function: `addStandardJob` of `addStandardJob-9`. What BullMQ calls with packed arguments it is
 * given as they are: of the options what the script reads, and `json`.
 */
export function bullmqScript(file: string): string {
  // BullMQ has no entry of its own for its scripts, and no types for them; the lock file holds its version.
  const scripts = createRequire(import.meta.url)(`bullmq/dist/cjs/scripts/${file}`) as Record<
    string,
    { readonly content: string }
  >
  const [name = ''] = file.split('-')
  return [
    `local function ${name}(KEYS, ARGV)`,
    '  local cmsgpack = {unpack = function(value) return value end}',
    '  local cjson = {encode = function(value) return value.json end}',
    scripts[name]?.content,
    'end',
  ].join('\n')
}
