import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import type { Test } from 'tap'
import { generateSecret } from '../../src/deliver/signature.ts'
import { spawnProcess, type TestProcess } from '../helper.ts'

/** A gateway as a process of its own, as an operator would run it. */
export interface GatewayProcess extends TestProcess {
  /** `http://127.0.0.1:<port>` */
  readonly url: string
}

export interface GatewayOptions {
  readonly redis: { readonly url: string }
  /** Job types; the repository's quartet.config.json by default. */
  readonly types?: Record<string, unknown>
  readonly roles?: string
  readonly env?: Record<string, string>
  /** More arguments for Node.js, before the program. */
  readonly nodeArgs?: readonly string[]
}

/** What all gateways of these tests sign webhooks with. */
export const secret = generateSecret()

/** Runs a gateway process and resolves when it listens. */
export async function startGatewayProcess(
  t: Pick<Test, 'teardown' | 'comment' | 'passing'>,
  options: GatewayOptions,
): Promise<GatewayProcess> {
  const { redis, types, roles = 'http,collect,callbacks,workers', env, nodeArgs = [] } = options
  const config = types ? await writeConfig(t, types) : resolve('quartet.config.json')
  const process = spawnProcess(t, ['node', '--import', 'tsx', ...nodeArgs, 'src/main.ts'], {
    env: {
      PORT: '0',
      REDIS_URL: redis.url,
      QUARTET_CONFIG: config,
      QUARTET_ROLES: roles,
      QUARTET_WEBHOOK_SECRET: secret,
      QUARTET_CALLBACK_ALLOW: '127.0.0.0/8',
      LOG_LEVEL: 'warn',
      ...env,
    },
  })
  if (!roles.includes('http')) return { ...process, url: '' }
  const [, url = ''] = await process.waitForLine(/listens on (http:\S+)/)
  return { ...process, url }
}

async function writeConfig(t: Pick<Test, 'teardown'>, types: Record<string, unknown>): Promise<string> {
  const dir = await mkdtemp(join(tmpdir(), 'quartet-e2e-'))
  t.teardown(() => rm(dir, { recursive: true }))
  const path = join(dir, 'quartet.config.json')
  await writeFile(path, JSON.stringify({ types }))
  return path
}

/** POST /jobs, expecting 202. @returns the job's id */
export async function submit(
  url: string,
  body: object,
  headers: Record<string, string> = {},
): Promise<string> {
  const response = await fetch(`${url}/jobs`, {
    method: 'POST',
    headers: { 'content-type': 'application/json', ...headers },
    body: JSON.stringify(body),
  })
  const text = await response.text()
  if (response.status !== 202) throw new Error(`Expected 202, got ${response.status}: ${text}`)
  return (JSON.parse(text) as { job_id: string }).job_id
}

export const order = {
  type: 'order',
  input: {
    order_id: 'A-1',
    items: [{ sku: 'tea', quantity: 2 }],
    amount_cents: 1250,
    card: '4242',
    carrier: 'flaky',
  },
}
