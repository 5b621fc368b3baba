import type { FastifyBaseLogger } from 'fastify'
import type { Outcome } from './advance.ts'
import type { Config } from './config.ts'
import type { Limited } from './config-limits.ts'

/** A longer reason is cut. */
const MAX_REASON_CHARACTERS = 65_536

/** What becomes of an outcome that is larger than a journal may have it; of all others nothing. */
export type BoundOutcome = (id: string, outcome: Outcome) => Outcome

export interface BoundOutcomeParts {
  readonly config: Pick<Config, 'maxResultBytes' | 'maxProgressBytes'>
  readonly countLimited: (limit: Limited) => void
  readonly log: FastifyBaseLogger
}

export function createBoundOutcome({ config, countLimited, log }: BoundOutcomeParts): BoundOutcome {
  const { maxResultBytes, maxProgressBytes } = config

  return (id, outcome) => {
    switch (outcome.kind) {
      case 'completed': {
        const bytes = excess(outcome.result, maxResultBytes)
        if (bytes === null) return outcome
        report('result', id, outcome.queue, bytes)
        return { kind: 'oversized', queue: outcome.queue, bytes, most: maxResultBytes }
      }
      case 'progress': {
        const bytes = excess(outcome.data, maxProgressBytes)
        if (bytes === null) return outcome
        report('progress', id, outcome.queue, bytes)
        return { kind: 'omitted', queue: outcome.queue, bytes }
      }
      case 'failed':
      case 'retrying':
        if (outcome.reason.length <= MAX_REASON_CHARACTERS) return outcome
        return { ...outcome, reason: `${outcome.reason.slice(0, MAX_REASON_CHARACTERS)}…` }
      default:
        return outcome
    }
  }

  function report(limit: Limited, job_id: string, queue: string, bytes: number): void {
    countLimited(limit)
    log.warn({ job_id, queue, bytes, limit }, 'a worker gave more than is kept')
  }
}

/** The bytes of a text that has more than `most`, null of any other. A character has three at most. */
function excess(text: string, most: number): number | null {
  if (text.length * 3 <= most) return null
  const bytes = Buffer.byteLength(text)
  return bytes > most ? bytes : null
}
