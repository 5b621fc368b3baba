import type { FastifyInstance } from 'fastify'
import { collectDefaultMetrics, Counter, Gauge, Registry } from 'prom-client'
import type { Access } from './access/access.ts'
import { needs } from './access/authenticate.ts'
import { uncounted } from './access/limit-requests.ts'
import type { Backlogs } from './backlog.ts'
import type { Membership } from './membership.ts'
import type { Deliveries, OpenCircuit } from './store/deliveries.ts'
import type { Store } from './store/store.ts'

/** Labels are kept for good by who reads them. */
const SHOWN_CIRCUITS = 100

/** What this process counts, for GET /metrics. Names and labels: docs/RELIABILITY.md "Metrics". */
export type Metrics = ReturnType<typeof createMetrics>

export function createMetrics() {
  const registry = new Registry()
  const counter = <Label extends string>(name: string, help: string, ...labelNames: Label[]) =>
    new Counter({ name: `quartet_${name}`, help, labelNames, registers: [registry] })

  return {
    registry,
    accepted: counter('jobs_accepted_total', 'Jobs that this node answered with 202.', 'type'),
    problems: counter('problems_total', 'Problems that this node answered with.', 'code'),
    limited: counter(
      'limited_total',
      'Sockets that this node closed, results that it refused and progress that it cut short, by the limit.',
      'limit',
    ),
    refused: counter('jobs_refused_total', 'Jobs that this node refused as too many were waiting.', 'type'),
    results: counter('results_total', 'Outcomes that this node brought into journals.', 'queue'),
    cuts: counter(
      'result_queue_cuts_total',
      'Times that the result queue was found cut past the cursor, and every unfinished job checked.',
      'queue',
    ),
    tries: counter('callback_tries_total', 'Tries of webhooks that this node made.', 'outcome'),
    deadLetters: counter('callback_dead_letters_total', 'Deliveries that this node gave up.'),
    repairs: counter('repairs_total', 'What the watchdog of this node put right.', 'verdict'),
    collecting: new Gauge({
      name: 'quartet_collecting',
      help: '1 while this node collects from the queue.',
      labelNames: ['queue'],
      registers: [registry],
    }),
  }
}

/** What is looked up when it is asked for. */
export interface MetricsSources {
  readonly metrics: Metrics
  readonly backlogs: Pick<Backlogs, 'waiting'>
  readonly membership: Pick<Membership, 'size'>
  readonly openCircuits: Deliveries['openCircuits']
  readonly openServices: Store['openServices']
  readonly isAuthorizerAway: Access['isAuthorizerAway']
}

/** GET /metrics, in Prometheus's text format, with those of the process and of Node.js. */
export function registerMetrics(
  app: FastifyInstance,
  { metrics, backlogs, membership, ...sources }: MetricsSources,
): void {
  const { registry } = metrics
  collectDefaultMetrics({ register: registry })
  new Gauge({
    name: 'quartet_nodes',
    help: 'Nodes that share the store.',
    registers: [registry],
    collect() {
      this.set(membership.size)
    },
  })
  new Gauge({
    name: 'quartet_authorizer_circuit_open',
    help: '1 while this node leaves the authorizer in peace, as it does not answer.',
    registers: [registry],
    collect() {
      this.set(sources.isAuthorizerAway() ? 1 : 0)
    },
  })
  new Gauge({
    name: 'quartet_jobs_waiting',
    help: 'Jobs that wait for their first attempt, on all nodes together.',
    labelNames: ['type'],
    registers: [registry],
    collect() {
      for (const [type, count] of backlogs.waiting()) this.set({ type }, count)
    },
  })
  showCircuits(
    registry,
    'callback_circuit_open',
    'Origins that no webhook is sent to, as they keep failing: 1 each, a hundred at most.',
    sources.openCircuits,
  )
  showCircuits(
    registry,
    'service_circuit_open',
    'Origins of services that no HTTP step calls, as they keep failing: 1 each, a hundred at most.',
    sources.openServices,
  )
  const { config } = needs('admin')
  const options = { config: { ...config, ...uncounted }, logLevel: 'silent' } as const
  app.get('/metrics', options, async (_request, reply) =>
    reply.type(registry.contentType).send(await registry.metrics()),
  )
}

function showCircuits(
  registry: Registry,
  name: string,
  help: string,
  open: (limit: number) => Promise<readonly OpenCircuit[]>,
): void {
  new Gauge({
    name: `quartet_${name}`,
    help,
    labelNames: ['origin'],
    registers: [registry],
    async collect() {
      this.reset()
      // A store that is away has its own metrics.
      const circuits = await open(SHOWN_CIRCUITS).catch(() => [])
      for (const { origin } of circuits) this.set({ origin }, 1)
    },
  })
}
