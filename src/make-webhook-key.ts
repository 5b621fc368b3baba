#!/usr/bin/env node
import { text } from 'node:stream/consumers'
import { generatePrivateKey, generateSecret, publicKeyOf } from './deliver/signature.ts'

/*
 * Makes keys to sign webhooks with (docs/WEBHOOKS.md), prints them, one a line, and keeps none: `npm run -s webhook:key`.
 */

try {
  console.log((await makeKeys(process.argv.slice(2).join(' '))).join('\n'))
} catch (error) {
  console.error((error as Error).message)
  process.exitCode = 1
}

async function makeKeys(option: string): Promise<string[]> {
  if (option === '') return [generateSecret()]
  if (option === '--asymmetric') {
    const key = generatePrivateKey()
    return [key, publicKeyOf(key)]
  }
  // Read from standard input, as every user of a machine sees the arguments of a command.
  if (option === '--public') return [publicKeyOf(await text(process.stdin))]
  throw new Error(
    'Expected --asymmetric for a private key and its public key, --public for the public key of the private key ' +
      'on standard input, or nothing for a shared secret, got another option',
  )
}
