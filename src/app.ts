import { setMaxListeners } from 'node:events'
import accepts from '@fastify/accepts'
import type { FastifyBaseLogger, FastifyInstance } from 'fastify'
import { createAccess, type AccessParts } from './access/access.ts'
import { registerAuthenticate } from './access/authenticate.ts'
import { registerBrowsers } from './access/browsers.ts'
import { limitRequests } from './access/limit-requests.ts'
import { createPlaces, type PlacesParts } from './access/places.ts'
import { createBacklogs } from './backlog.ts'
import { createBoundOutcome } from './bound-outcome.ts'
import { startHttpSteps, type HttpSteps } from './call/http-steps.ts'
import type { Catalog } from './catalog.ts'
import { registerChangeJob } from './change-job.ts'
import type { JudgeCallback } from './check-request.ts'
import { collect } from './collect.ts'
import type { Config } from './config.ts'
import type { Limited } from './config-limits.ts'
import { registerDeliveries } from './deliver/deliveries.ts'
import { registerEvents } from './deliver/events.ts'
import { createHoldOpen } from './deliver/hold-open.ts'
import { registerPoll } from './deliver/poll.ts'
import { createReturnAddressGuard, type ReturnAddressGuard } from './deliver/return-address.ts'
import { createWebhookSender } from './deliver/send-webhook.ts'
import { patienceOf } from './deliver/schedule.ts'
import { parseSigningKeys, type SigningKeys } from './deliver/signature.ts'
import { createStreams } from './deliver/stream.ts'
import { startWebhooks } from './deliver/webhook.ts'
import { registerWebSocket } from './deliver/websocket.ts'
import { registerDescribe } from './describe/describe.ts'
import { registerProblemHandler, type Problem } from './errors.ts'
import { createFollow } from './follow.ts'
import { createFollowUps, type HandOver } from './follow-up.ts'
import { registerGiveToken } from './give-token.ts'
import { registerHealth } from './health.ts'
import { createKnownJobs } from './known-jobs.ts'
import { createMembership, nameNode } from './membership.ts'
import { createMetrics, registerMetrics } from './metrics.ts'
import { registerPostBatch } from './post-batch.ts'
import { registerPostJob } from './post-job.ts'
import { createQueues } from './queues.ts'
import { createResultQueue, type ResultQueue } from './result-queue.ts'
import { createServer } from './server.ts'
import type { Connect } from './store/redis/connect.ts'
import { createReplicate } from './store/redis/replicate.ts'
import { createRedisStore } from './store/redis/redis-store.ts'
import { createSubmit } from './submit.ts'
import { watch } from './watchdog.ts'

/** So many bodies may be in one batch. */
const BATCH_BODIES = 8
/** How long a start waits for Redis before it goes on without: it then answers 503 until Redis is there. */
const CONNECT_MS = 3_000
/** How long requests and tries of webhooks under way may take once the gateway closes; the rest is made again. */
const CLOSE_MS = 5_000

export interface AppParts {
  readonly config: Pick<
    Config,
    | keyof AccessParts['config']
    | 'bullmqPrefix'
    | 'callbackAllow'
    | 'allowAnonymous'
    | 'callbackConcurrency'
    | 'callbackProxy'
    | 'callbackSchedule'
    | 'corsOrigins'
    | 'maxBodyBytes'
    | 'maxProgressBytes'
    | 'maxResultBytes'
    | 'maxSockets'
    | 'maxStreams'
    | 'maxSubscriptions'
    | 'rateLimit'
    | 'roles'
    | 'socketMessages'
    | 'trustedProxies'
    | 'waitReplicas'
    | 'webhookSecrets'
  >
  readonly catalog: Catalog
  /** Makes connections to Redis; the first one must be able to become ready. */
  readonly connect: Connect
  /** A pino logger, or `false` for silence. */
  readonly logger: FastifyBaseLogger | false
}

/**
 * Puts the gateway together, in the order of a job's path. `ready()` starts the consumers of the roles chosen,
 * `close()` ends everything that was made here; `listen()` is the caller's.
 */
export async function buildApp({ config, catalog, connect, logger }: AppParts): Promise<FastifyInstance> {
  const app = createServer(logger, config)
  const { log } = app
  const closing = new AbortController()
  // Every consumer and every held request listens to it.
  setMaxListeners(0, closing.signal)
  const { bullmqPrefix: prefix, roles } = config

  // The store, and BullMQ's queues on the same connection: Redis sees a record before its BullMQ job.
  const redis = connect('command')
  await whenReady(redis, CONNECT_MS)
  const replicate = createReplicate(redis, config.waitReplicas)
  const schedule = config.callbackSchedule
  const store = createRedisStore(redis, connect, {
    replicate,
    perOrigin: config.callbackConcurrency,
    patienceMs: patienceOf(schedule),
  })
  const queues = createQueues(redis, prefix, catalog, store.now, {
    replicate,
    isFair: config.auth.size > 0,
  })
  const handOver: HandOver = (id) => store.deliveries.handOver(id)
  const followUps = createFollowUps({ queues, handOver, log })

  // The nodes share out whose results each collects.
  const node = nameNode(roles.has('http'))
  const collected = roles.has('collect') ? catalog.queues : []
  const membership = createMembership({ store, node, queues: collected, log })
  const metrics = createMetrics()
  const countLimited = (limit: Limited) => metrics.limited.inc({ limit })
  const knownJobs = createKnownJobs()

  // Let in.
  const access = createAccess({ config, store, log })

  // Accept.
  const guard = createReturnAddressGuard({
    allow: config.callbackAllow,
    // Tenants are not to learn this network's names by their callback URLs.
    isDiscreet: config.auth.size > 0,
    proxy: config.callbackProxy,
  })
  const signingKeys = config.webhookSecrets === null ? null : parseSigningKeys(config.webhookSecrets)
  const judgeCallback = createJudgeCallback(signingKeys, guard)
  const types = roles.has('http') ? [...catalog.types.keys()] : []
  const backlogs = createBacklogs({ store, types, log }, () => membership.fronts)
  const submit = createSubmit({
    store,
    queues,
    catalog,
    followUps,
    judgeCallback,
    backlogs,
    metrics,
    knownJobs: roles.has('collect') ? knownJobs : null,
    intake: redis.isCluster ? null : store.intake,
    log,
  })

  // Step queue → services.
  let httpSteps: HttpSteps | null = null
  app.addHook('onReady', async () => {
    if (!roles.has('workers')) return
    httpSteps = startHttpSteps({ services: catalog.services, store, connect, prefix, log })
  })

  // Result queue → journal → next step, callback.
  const results = createResultQueues((queue) =>
    createResultQueue(redis, () => connect('blocking'), prefix, queue),
  )
  const consumers: Promise<void>[] = []
  app.addHook('onReady', async () => {
    const { left } = await membership.join(closing.signal)
    consumers.push(left)
    if (roles.has('http')) consumers.push(backlogs.watch(closing.signal), access.keepUp(closing.signal))
    if (!roles.has('collect')) return
    const shared = { store, queues, followUps, handOver, resultsOf: results.of, metrics, log }
    const boundOutcome = createBoundOutcome({ config, countLimited, log })
    const parts = { ...shared, knownJobs, boundOutcome, owner: node, membership }
    for (const queue of catalog.queues) {
      consumers.push(collect({ ...parts, queue, results: results.of(queue) }, closing.signal))
    }
    consumers.push(watch(parts, closing.signal))
  })

  // Journal → clients.
  const follow = createFollow({ store, log })
  const streams = createStreams(follow, access.watch)
  const countProblem = ({ code }: Problem) => metrics.problems.inc({ code })
  if (roles.has('http')) {
    const { signal } = closing
    const { rateLimit: limit, maxStreams, maxSockets } = config
    const places = (kind: PlacesParts['kind'], most: number | null) =>
      most === null ? null : createPlaces({ store, node, kind, most, closing: signal, log })
    const parts = {
      store,
      queues,
      followUps,
      handOver,
      judgeCallback,
      submit,
      follow,
      streams,
      closing: signal,
      countProblem,
      holdOpen: createHoldOpen(places('streams', maxStreams)),
      ...access,
    }
    await app.register(accepts.default)
    registerProblemHandler(app, countProblem)
    const isAllowedOrigin = await registerBrowsers(
      app,
      config.corsOrigins,
      config.auth.size === 0 && !config.allowAnonymous,
    )
    registerAuthenticate(app, parts)
    const requests = limit && (await limitRequests(app, { limit, store }))
    await registerDescribe(app, { ...access, catalog, isOpen: config.auth.size === 0 })
    registerHealth(app, parts)
    registerMetrics(app, {
      metrics,
      backlogs,
      membership,
      openCircuits: (limit) => store.deliveries.openCircuits(limit),
      openServices: (limit) => store.openServices(limit),
      isAuthorizerAway: () => access.isAuthorizerAway(),
    })
    registerPostJob(app, parts)
    registerPostBatch(app, { ...parts, requests, bodyLimit: BATCH_BODIES * config.maxBodyBytes })
    registerPoll(app, parts)
    registerEvents(app, parts)
    registerChangeJob(app, parts)
    registerDeliveries(app, parts)
    registerGiveToken(app, parts)
    await registerWebSocket(app, {
      ...parts,
      isAllowedOrigin,
      requests,
      sockets: places('sockets', maxSockets),
      messageRate: config.socketMessages,
      maxSubscriptions: config.maxSubscriptions,
      countLimited,
    })
  }

  // Journal → return addresses.
  let webhooks: ReturnType<typeof startWebhooks> | null = null
  app.addHook('onReady', async () => {
    if (!roles.has('callbacks') || signingKeys === null) return
    const { dispatcher } = guard
    const sender = createWebhookSender({ dispatcher, keys: signingKeys, userAgent: 'Quartet' })
    const disconnect = () => guard.close()
    webhooks = startWebhooks({ store, sender, disconnect, schedule, metrics, log })
  })

  app.addHook('preClose', async () => {
    closing.abort()
    streams.endAll()
    // A connection on which nothing was ever asked, such as a browser's preconnect, would be waited for.
    setTimeout(() => app.server.closeAllConnections(), CLOSE_MS).unref()
  })
  app.addHook('onClose', async () => {
    results.close()
    await Promise.all([...consumers, httpSteps?.close(), webhooks?.close(CLOSE_MS)])
    await Promise.all([queues.close(), guard.close(), access.close(), store.close()])
    redis.disconnect()
  })
  return app
}

function createJudgeCallback(keys: SigningKeys | null, guard: ReturnAddressGuard): JudgeCallback {
  return async (tenant, url) => {
    if (keys === null) return 'cannot be used: this gateway has no QUARTET_WEBHOOK_SECRET to sign with'
    if (keys.of(tenant).length === 0)
      return 'cannot be used: this gateway has no key in QUARTET_WEBHOOK_SECRET to sign with for this tenant'
    const verdict = await guard.check(url)
    return verdict.status === 'refused' ? verdict.reason : null
  }
}

/** One result queue per step queue, made when it is first asked for. */
function createResultQueues(create: (queue: string) => ResultQueue) {
  const known = new Map<string, ResultQueue>()
  return {
    of: (queue: string): ResultQueue => {
      const results = known.get(queue) ?? create(queue)
      known.set(queue, results)
      return results
    },
    close() {
      for (const results of known.values()) results.close()
    },
  }
}

async function whenReady(redis: ReturnType<Connect>, ms: number): Promise<void> {
  if (redis.status === 'ready') return
  await within(ms, new Promise((resolve) => redis.once('ready', resolve)))
}

async function within(ms: number, task: Promise<unknown> | undefined): Promise<void> {
  let timer: NodeJS.Timeout | undefined
  const limit = new Promise<void>((resolve) => (timer = setTimeout(resolve, ms)))
  await Promise.race([task, limit])
  clearTimeout(timer)
}
