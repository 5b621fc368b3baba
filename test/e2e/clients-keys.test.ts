import t from 'tap'
import { spawnProcess } from '../helper.ts'
import { secret, startGatewayProcess } from './processes.ts'
import { startRedis } from './redis.ts'

const clients: Record<string, (mode: string) => string[]> = {
  TypeScript: (mode) => ['node', '--import', 'tsx', `clients/typescript/${mode}.ts`],
  Python: (mode) => ['python3', `clients/python/${mode}.py`],
}

t.test('the example clients show their key where it is asked for', async (t) => {
  const redis = await startRedis(t)
  const { url } = await startGatewayProcess(t, { redis, env: { QUARTET_AUTH: 'keys' } })
  const scopes = ['--scope', 'jobs:write', '--scope', 'jobs:read']
  const create = ['node', '--import', 'tsx', 'src/main.ts', 'keys', 'create', '--tenant', 'acme', ...scopes]
  const created = spawnProcess(t, create, { env: { REDIS_URL: redis.url } })
  const [key = ''] = await created.waitForLine(/^qk_\S+$/)

  for (const [language, command] of Object.entries(clients)) {
    const run = async (mode: string, more: Record<string, string>) => {
      const env = { QUARTET_URL: url, QUARTET_WEBHOOK_SECRET: secret, ...more }
      const client = spawnProcess(t, [...command(mode), 'echo', '"hello"'], { env })
      return { ...(await client.exited), output: client.lines.join('\n') }
    }
    await Promise.all(
      ['poll', 'sse', 'websocket', 'webhook'].map(async (mode) => {
        const { code, output } = await run(mode, { QUARTET_KEY: key })
        t.equal(code, 0, `${mode} in ${language}`)
        t.match(output, /^"hello"$/m)
      }),
    )
    for (const mode of ['sse', 'websocket']) {
      const { code, output } = await run(mode, {})
      t.equal(code, 1, `${mode} in ${language} without`)
      t.match(output, /401/)
    }
  }
})
