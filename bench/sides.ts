import { resolve } from 'node:path'
import { generateSecret } from '../src/deliver/signature.ts'
import { spawnProcess, type TestProcess, type TestRedis } from '../test/helper.ts'
import type { Scope } from './scope.ts'

export const sideNames = ['baseline', 'quartet'] as const
/** The floor is measured by itself (floor.ts). */
export type SideName = (typeof sideNames)[number] | 'floor'

/** The processes of a side, all built and with NODE_ENV=production. */
export interface Side {
  readonly urls: readonly string[]
  readonly gateways: readonly TestProcess[]
  readonly workers: readonly TestProcess[]
}

export interface SideOptions {
  readonly redis: TestRedis
  readonly gateways?: number
  readonly workers?: number
  readonly env?: Record<string, string>
  /** Of the gateways. */
  readonly nodeArgs?: readonly string[]
}

const programs: Record<SideName, string> = {
  baseline: 'dist/bench/baseline/main.js',
  quartet: 'dist/src/main.js',
  floor: 'dist/bench/floor/main.js',
}
const secret = generateSecret()

/** Starts a side's gateways and workers, each a process of its own. */
export async function startSide(t: Scope, name: SideName, options: SideOptions): Promise<Side> {
  const { redis, gateways = 1, workers = 1, env = {}, nodeArgs = [] } = options
  const started = Array.from({ length: gateways }, () => spawnGateway(t, name, redis, env, nodeArgs))
  const working = Array.from({ length: workers }, () =>
    spawnProcess(t, ['node', 'dist/bench/worker.js'], {
      env: { REDIS_URL: redis.url, NODE_ENV: 'production' },
    }),
  )
  await Promise.all(working.map((process) => process.waitForLine(/^works$/)))
  const lines = await Promise.all(started.map((process) => process.waitForLine(/listens on (http:\S+)/)))
  return { urls: lines.map(([, url = '']) => url), gateways: started, workers: working }
}

/** A gateway process that may not listen yet. */
export function spawnGateway(
  t: Scope,
  name: SideName,
  redis: TestRedis,
  env: Record<string, string> = {},
  nodeArgs: readonly string[] = [],
): TestProcess {
  const quartet = {
    QUARTET_CONFIG: resolve('bench/quartet.config.json'),
    QUARTET_ROLES: 'http,collect,callbacks',
    QUARTET_WEBHOOK_SECRET: secret,
    QUARTET_CALLBACK_ALLOW: '127.0.0.0/8',
    LOG_LEVEL: 'warn',
  }
  return spawnProcess(t, ['node', ...nodeArgs, programs[name]], {
    env: {
      NODE_ENV: 'production',
      PORT: '0',
      REDIS_URL: redis.url,
      ...(name === 'quartet' && quartet),
      ...env,
    },
  })
}
