import type { FastifyInstance } from 'fastify'
import { collectDefaultMetrics, Counter, Gauge, Registry } from 'prom-client'
import type { Backlogs } from './backlog.ts'
import type { Membership } from './membership.ts'

/** What this process counts, for GET /metrics. Names and labels: docs/RELIABILITY.md "Metrics". */
export type Metrics = ReturnType<typeof createMetrics>

export function createMetrics() {
  const registry = new Registry()
  const counter = <Label extends string>(name: string, help: string, ...labelNames: Label[]) =>
    new Counter({ name: `quartet_${name}`, help, labelNames, registers: [registry] })

  return {
    registry,
    accepted: counter('jobs_accepted_total', 'Jobs that this node answered with 202.', 'type'),
    refused: counter('jobs_refused_total', 'Jobs that this node refused as too many were waiting.', 'type'),
    results: counter('results_total', 'Outcomes that this node brought into journals.', 'queue'),
    cuts: counter(
      'result_queue_cuts_total',
      'Times that the result queue was found cut past the cursor, and every unfinished job checked.',
      'queue',
    ),
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
}

/** GET /metrics, in Prometheus's text format, with those of the process and of Node.js. */
export function registerMetrics(
  app: FastifyInstance,
  { metrics, backlogs, membership }: MetricsSources,
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
    name: 'quartet_jobs_waiting',
    help: 'Jobs that wait for their first attempt, on all nodes together.',
    labelNames: ['type'],
    registers: [registry],
    collect() {
      for (const [type, count] of backlogs.waiting()) this.set({ type }, count)
    },
  })
  app.get('/metrics', { logLevel: 'silent' }, async (_request, reply) =>
    reply.type(registry.contentType).send(await registry.metrics()),
  )
}
