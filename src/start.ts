import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { AddressInfo } from 'node:net'
import type { Logger } from 'pino'
import { startSampleWorkers } from '../workers/start.ts'
import { buildApp } from './app.ts'
import { readCatalog } from './catalog.ts'
import { readConfig, type Config } from './config.ts'
import { generateSecret } from './deliver/signature.ts'
import { createLog } from './log.ts'
import { PRIVATE_DIR, startPrivateRedis, type PrivateRedis } from './store/private-redis.ts'
import { createConnect } from './store/redis/connect.ts'

/** Connections that may wait to be accepted, as far as the system allows; with Node's 511 a crowd that comes back is reset. */
const BACKLOG = 4_096
/** A close that has not come to its end by then is ended. */
const GRACE_MS = 9_500

/** Runs a gateway until it is told to end. */
export async function start(): Promise<void> {
  const given = readConfig()
  const catalog = readCatalog(given.catalogPath)
  const log = createLog(given.logLevel)
  const closers: (() => Promise<unknown>)[] = []
  const close = createClose(closers, log)
  process.once('SIGTERM', close)
  process.once('SIGINT', close)

  const privateRedis = given.redisUrl === null ? await startPrivateRedis({ dir: PRIVATE_DIR }) : null
  if (privateRedis) closers.push(stopOrFail(privateRedis, log))
  const config = privateRedis ? { ...given, webhookSecrets: given.webhookSecrets ?? privateSecret() } : given
  const redisUrl = given.redisUrl ?? privateRedis?.url ?? ''
  const connect = createConnect(redisUrl, createErrorLog(log))

  if (config.roles.has('workers')) {
    const workers = startSampleWorkers({
      queues: catalog.queues.filter((queue) => !catalog.services.has(queue)),
      connection: connect('blocking'),
      prefix: config.bullmqPrefix,
      onError: createErrorLog(log),
    })
    closers.push(() => workers.close())
  }
  const app = await buildApp({ config, catalog, connect, logger: log })
  closers.push(() => app.close())
  await app.ready()
  if (config.roles.has('http')) {
    await app.listen({ port: config.port, host: config.host, backlog: BACKLOG })
    welcome(config, app.server.address() as AddressInfo, redisUrl)
  }
}

/** Ends the parts in the reverse order of their making; a second signal, or too long a wait, ends the process at once. */
function createClose(closers: readonly (() => Promise<unknown>)[], log: Logger): () => void {
  let isClosing = false
  return () => {
    if (isClosing) process.exit(1)
    isClosing = true
    log.info('closing')
    setTimeout(() => {
      log.error('closing took too long')
      process.exit(1)
    }, GRACE_MS).unref()
    closeAll(closers).then(
      () => process.exit(0),
      (err: unknown) => {
        log.error({ err }, 'closing failed')
        process.exit(1)
      },
    )
  }
}

async function closeAll(closers: readonly (() => Promise<unknown>)[]): Promise<void> {
  for (const close of closers.toReversed()) await close()
}

/** Without its Redis a gateway is of no use: if it ends unasked, so does the process. @returns asks it to end */
function stopOrFail(redis: PrivateRedis, log: Logger): () => Promise<void> {
  let isAsked = false
  void redis.exited.then((how) => {
    if (isAsked) return
    log.fatal(how, 'the private Redis has ended')
    process.exit(1)
  })
  return () => {
    isAsked = true
    return redis.stop()
  }
}

/** The secret of a gateway with a private Redis: made once, kept beside its data, so that webhooks work from the start. */
function privateSecret(): string {
  const path = join(PRIVATE_DIR, 'webhook-secret')
  if (existsSync(path)) return readFileSync(path, 'utf8').trim()
  const secret = generateSecret()
  mkdirSync(PRIVATE_DIR, { recursive: true })
  writeFileSync(path, `${secret}\n`, { mode: 0o600 })
  return secret
}

/** Connections report the same trouble at every attempt; the log shall have it once a while. */
function createErrorLog(log: Logger): (error: Error) => void {
  let last = { message: '', at: 0 }
  return (error) => {
    if (error.message === last.message && Date.now() - last.at < 10_000) return
    last = { message: error.message, at: Date.now() }
    log.warn({ err: error }, 'trouble with Redis')
  }
}

function welcome({ host, roles, auth }: Config, { port }: AddressInfo, redisUrl: string): void {
  const url = `http://${host.includes(':') ? `[${host}]` : host}:${port}`
  const [example, input] = roles.has('workers')
    ? ['order', '{"order_id":"A-1","items":[{"sku":"tea","quantity":2}],"amount_cents":1250,"card":"4242"}']
    : ['echo', '"hello"']
  const credential = auth.size === 0 ? '' : ` -H "authorization: Bearer $QUARTET_KEY"`
  console.log(
    `\nQuartet listens on ${url} (Redis: ${redisUrl.replace(/\/\/[^@/]*@/, '//')}). Try:\n\n` +
      `  curl -N ${url}/jobs -H 'content-type: application/json' -H 'accept: text/event-stream'${credential} \\\n` +
      `    -d '{"type":"${example}","input":${input}}'\n\nor open ${url}/docs.\n`,
  )
}
