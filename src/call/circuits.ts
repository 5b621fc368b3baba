import type { FastifyBaseLogger } from 'fastify'
import type { Service } from '../steps.ts'
import type { Store } from '../store/store.ts'
import { createCircuit, type Circuit } from './circuit.ts'

/** While a call is made to see, the circuit is open still. */
const MARGIN_MS = 5_000

/** One circuit per service, which is an origin: scheme, host and port. */
export interface Circuits {
  of(service: Service): Circuit
}

/**
 * This process's circuits. Each process judges by its own calls, and tells the store of those that are open, as a process
 * that only calls has no /metrics.
 */
export function createCircuits({
  store,
  log,
  waitsMs,
}: {
  readonly store: Pick<Store, 'reportService'>
  readonly log: FastifyBaseLogger
  readonly waitsMs?: readonly number[] | undefined
}): Circuits {
  const known = new Map<string, Circuit>()

  return {
    of({ url, timeoutMs }) {
      const { origin } = new URL(url)
      const circuit =
        known.get(origin) ?? createCircuit((openUntil) => report(origin, timeoutMs, openUntil), waitsMs)
      known.set(origin, circuit)
      return circuit
    },
  }

  function report(origin: string, timeoutMs: number, openUntil: number | null): void {
    if (openUntil === null) log.info({ origin }, 'a service answers again')
    else log.warn({ origin, until: new Date(openUntil) }, 'a service keeps failing; its jobs wait')
    const until = openUntil === null ? null : openUntil + timeoutMs + MARGIN_MS
    store.reportService(origin, until).catch((err: unknown) => {
      log.debug({ err, origin }, 'the state of a service could not be reported')
    })
  }
}
