import { readFileSync } from 'node:fs'
import type { Client } from './connect.ts'

/** Runs one script: its keys, then its arguments. */
export type Script<Reply> = (keys: readonly string[], args: readonly (string | number)[]) => Promise<Reply>

/** What owned.lua returns: a job's record, the fields asked for, and a part of a list. */
export type Owned = readonly [string, readonly (string | null)[], readonly string[]]

/**
 * Registers the script in `<name>.lua` beside this file on a connection; ioredis sends it by its digest.
 * @param shared the names of what is put in front of it
 * @param foreign Lua that comes before that
 */
export function defineScript<Reply>(
  redis: Client,
  name: string,
  shared: readonly string[] = [],
  foreign = '',
): Script<Reply> {
  const command = `quartet:${[...shared, name].join('+')}`
  const lua = [foreign, ...[...shared, name].map(read)].join('\n')
  redis.defineCommand(command, { lua })
  const run = (redis as unknown as Record<string, (...args: unknown[]) => Promise<Reply>>)[command]
  if (!run) throw new Error(`Expected ioredis to define ${command}`)
  return (keys, args) => run.call(redis, keys.length, ...keys, ...args)
}

function read(name: string): string {
  return readFileSync(new URL(`${name}.lua`, import.meta.url), 'utf8')
}
