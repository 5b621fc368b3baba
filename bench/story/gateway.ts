import { startGatewayProcess } from '../../test/e2e/processes.ts'
import { startRedis } from '../../test/helper.ts'
import type { Scope } from '../scope.ts'
import { startNetwork, startService, type Service } from './processes.ts'
import { CONSUMERS, NETWORK_MS, PATIENCE_MS, SLOTS, WORK_MS } from './story.ts'

export interface Gateway {
  /** Over the network, as its clients see it. */
  readonly url: string
  /** A over the network, as everybody sees it. */
  readonly toA: string
  readonly services: [Service, Service, Service]
  readonly addConsumers: () => Promise<void>
}

/** Redis, the services, a gateway whose type `order` has them as its steps, and a process that calls them. */
export async function startGateway(t: Scope): Promise<Gateway> {
  const redis = await startRedis(t)
  const services = await Promise.all(WORK_MS.map((workMs) => startService(t, { workMs, slots: SLOTS })))
  const [a, b, c] = services as [Service, Service, Service]
  const urls = await startNetwork(t, NETWORK_MS, [a.port, b.port, c.port])
  const steps = urls.map((url, index) => ({
    queue: ['a', 'b', 'c'][index],
    http: { url, timeout_ms: PATIENCE_MS, concurrency: CONSUMERS },
    attempts: 5,
    backoff_ms: 200,
  }))
  const types = { order: { steps } }
  const gateway = await startGatewayProcess(t, { redis, types, roles: 'http,collect,callbacks' })
  const addConsumers = async () => {
    const { child } = await startGatewayProcess(t, { redis, types, roles: 'workers' })
    if (child.exitCode !== null) throw new Error('Expected the consumers to run, got an end')
  }
  await addConsumers()
  const [url = ''] = await startNetwork(t, NETWORK_MS, [Number(new URL(gateway.url).port)])
  return { url, toA: urls[0] ?? '', services: [a, b, c], addConsumers }
}
