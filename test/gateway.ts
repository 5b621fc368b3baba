import type { AddressInfo } from 'node:net'
import { Worker, type Processor, type WorkerOptions } from 'bullmq'
import type { FastifyBaseLogger, FastifyInstance } from 'fastify'
import type { Test } from 'tap'
import { buildApp } from '../src/app.ts'
import { parseCatalog } from '../src/catalog.ts'
import { readConfig } from '../src/config.ts'
import { generateSecret } from '../src/deliver/signature.ts'
import { createConnect } from '../src/store/redis/connect.ts'
import { startRedis, type TestRedis } from './helper.ts'

/** A gateway in this process, on a Redis of the test's own. */
export interface TestGateway {
  readonly app: FastifyInstance
  /** `http://127.0.0.1:<port>` */
  readonly url: string
  readonly redis: TestRedis
  /** What it signs webhooks with, `whsec_…`. */
  readonly secret: string
  /** Sent with every call of the clients in conformance/clients.ts. */
  readonly headers: Readonly<Record<string, string>>
  /** Runs a plain BullMQ worker until the test ends; resolves when it listens. */
  work(queue: string, processor: Processor, options?: Partial<WorkerOptions>): Promise<Worker>
  /** POST /jobs with a JSON body. */
  post(body: unknown, headers?: Record<string, string>): Promise<Response>
}

export interface GatewayOptions {
  redis?: TestRedis
  env?: Record<string, string>
  logger?: FastifyBaseLogger | false
}

/**
 * Starts a gateway that listens on a free port of 127.0.0.1, and ends it when the test ends.
 *
 * @param types as in `quartet.config.json`
 * @param options.redis an own one by default; a shared one makes this another node
 */
export async function startGateway(
  t: Test,
  types: Record<string, unknown>,
  { redis: shared, env = {}, logger = false }: GatewayOptions = {},
): Promise<TestGateway> {
  const redis = shared ?? (await startRedis(t))
  const secret = generateSecret()
  const config = readConfig({
    REDIS_URL: redis.url,
    QUARTET_ROLES: 'http,collect,callbacks',
    QUARTET_CALLBACK_ALLOW: '127.0.0.0/8',
    QUARTET_WEBHOOK_SECRET: secret,
    ...env,
  })
  const app = await buildApp({
    config,
    catalog: parseCatalog({ types }),
    // Connections break when a test stops its Redis.
    connect: createConnect(redis.url, () => undefined),
    logger,
  })
  t.teardown(() => app.close())
  await app.listen({ port: 0, host: '127.0.0.1' })
  const url = `http://127.0.0.1:${(app.server.address() as AddressInfo).port}`

  return {
    app,
    url,
    redis,
    secret,
    headers: {},

    async work(queue, processor, options) {
      const worker = new Worker(queue, processor, {
        connection: redis.connect({ maxRetriesPerRequest: null }),
        ...options,
      })
      worker.on('error', () => undefined)
      t.teardown(() => worker.close(true))
      await worker.waitUntilReady()
      return worker
    },

    post: (body, headers) =>
      fetch(`${url}/jobs`, {
        method: 'POST',
        headers: { 'content-type': 'application/json', ...headers },
        body: JSON.stringify(body),
      }),
  }
}
