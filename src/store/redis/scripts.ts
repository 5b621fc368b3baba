import { readFileSync } from 'node:fs'
import type { Client } from './connect.ts'

/** Runs one script: its keys, then its arguments. */
export type Script<Reply> = (keys: readonly string[], args: readonly (string | number)[]) => Promise<Reply>

/** Registers the script in `<name>.lua` beside this file on a connection; ioredis sends it by its digest. */
export function defineScript<Reply>(redis: Client, name: string): Script<Reply> {
  const command = `quartet:${name}`
  redis.defineCommand(command, { lua: readFileSync(new URL(`${name}.lua`, import.meta.url), 'utf8') })
  const run = (redis as unknown as Record<string, (...args: unknown[]) => Promise<Reply>>)[command]
  if (!run) throw new Error(`Expected ioredis to define ${command}`)
  return (keys, args) => run.call(redis, keys.length, ...keys, ...args)
}
