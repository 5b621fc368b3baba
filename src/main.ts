#!/usr/bin/env node
import { CatalogError } from './catalog.ts'
import { ConfigError } from './config.ts'
import { runKeys, CommandError } from './keys-command.ts'
import { PrivateRedisError } from './store/private-redis.ts'

const USAGE = `Usage:
  quartet                run a gateway; the environment says how (README.md "Configuration")
  quartet keys …         create, list and revoke API keys`

await main(process.argv.slice(2)).catch((error: unknown) => {
  // What the operator can put right is told in its own words; anything else shows where it comes from.
  const kinds = [ConfigError, CatalogError, PrivateRedisError, CommandError]
  const isTheirs = kinds.some((each) => error instanceof each)
  const message = error instanceof Error ? error.message : String(error)
  console.error(isTheirs ? message : error)
  process.exit(1)
})

async function main([command, ...args]: readonly string[]): Promise<void> {
  if (command === undefined || command === 'start') return (await import('./start.ts')).start()
  if (command === 'keys') return runKeys(args)
  if (command === 'help' || command === '--help') return console.log(USAGE)
  throw new CommandError(`Expected no command, start or keys, got "${command}"\n\n${USAGE}`)
}
