import { parseArgs } from 'node:util'
import { createReturnAddressGuard } from '../src/deliver/return-address.ts'
import { createWebhookSender } from '../src/deliver/send-webhook.ts'
import { generateSecret, parseSigningKeys } from '../src/deliver/signature.ts'

/*
 * Sends one webhook to each of the URLs that are its arguments, where loopback is allowed, and prints the outcomes. A
 * process of its own, for what Node.js reads of its environment when it starts: proxies and certificates to trust.
 */

const { values, positionals } = parseArgs({ allowPositionals: true, options: { proxy: { type: 'string' } } })
const guard = createReturnAddressGuard({ allow: ['127.0.0.0/8'], proxy: values.proxy ?? null })
const { send } = createWebhookSender({
  dispatcher: guard.dispatcher,
  keys: parseSigningKeys(generateSecret()),
  userAgent: 'quartet-test/1',
})
const outcomes = await Promise.all(
  positionals.map((url) => send({ tenant: 'default', url, id: 'job.1', body: '{}' })),
)
await guard.close()
console.log(`outcomes ${JSON.stringify(outcomes)}`)
