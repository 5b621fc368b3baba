import { readFileSync } from 'node:fs'
import t, { type Test } from 'tap'
import { spawnProcess } from '../helper.ts'
import { startReceiver } from './modes.ts'
import { secret, startGatewayProcess } from './processes.ts'
import { startRedis } from './redis.ts'

const modes = ['poll', 'sse', 'websocket', 'webhook']
const languages: Record<string, (mode: string) => string[]> = {
  TypeScript: (mode) => ['node', '--import', 'tsx', `clients/typescript/${mode}.ts`],
  Python: (mode) => ['python3', `clients/python/${mode}.py`],
}

t.test('the example clients', async (t) => {
  const redis = await startRedis(t)
  const { url } = await startGatewayProcess(t, { redis })
  const run = async (t: Test, command: string[], ...args: string[]) => {
    const client = spawnProcess(t, [...command, ...args], {
      env: { QUARTET_URL: url, QUARTET_WEBHOOK_SECRET: secret },
    })
    return { ...(await client.exited), output: client.lines.join('\n') }
  }

  for (const [language, command] of Object.entries(languages)) {
    for (const mode of modes) {
      await t.test(`${mode} in ${language} shows the order’s progress and result`, async (t) => {
        const { code, output } = await run(t, command(mode))
        t.equal(code, 0)
        t.match(output, /charging/)
        t.match(output, /"status": "shipped"/)
      })

      await t.test(`${mode} in ${language} fails with a job that fails`, async (t) => {
        const declined = {
          order_id: 'A-2',
          items: [{ sku: 'tea', quantity: 1 }],
          amount_cents: 1,
          card: '0002',
        }
        const { code, output } = await run(t, command(mode), 'order', JSON.stringify(declined))
        t.equal(code, 1)
        t.match(output, /card declined/)
      })
    }
  }
})

t.test('every command of clients/curl.md succeeds', async (t) => {
  const redis = await startRedis(t)
  const { url } = await startGatewayProcess(t, { redis })
  const receiver = await startReceiver(t)
  const blocks = [...readFileSync('clients/curl.md', 'utf8').matchAll(/^```sh\n([\s\S]*?)^```$/gm)]
  // A status of 400 or more fails the command, as a reader would expect of an example.
  const script = blocks.map(([, command = '']) => command).join('\n')
  const shell = spawnProcess(
    t,
    ['bash', '-euo', 'pipefail', '-c', `curl() { command curl --fail-with-body "$@"; }\n${script}`],
    {
      env: { QUARTET_URL: url, CALLBACK_URL: receiver.url },
    },
  )
  t.same(await shell.exited, { code: 0, signal: null })
  t.ok(blocks.length > 10)
  t.match((await receiver.complete)[0], /"type":"job.completed"/)
})
