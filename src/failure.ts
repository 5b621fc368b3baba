/** A longer reason is no problem object, but text: it is kept with the job. */
const MAX_CHARACTERS = 16_384

/** Why an attempt failed: in words, and as the problem object that the worker gave, if it gave one. */
export interface Failure {
  readonly detail: string
  readonly problem?: Readonly<Record<string, unknown>>
}

/**
 * Reads the reason that a worker gave (docs/PROTOCOL.md "A worker's problem object"): text, or the JSON text of a
 * problem object (RFC 9457), which is an object with a `title`.
 */
export function readFailure(reason: string): Failure {
  if (!reason.startsWith('{') || reason.length > MAX_CHARACTERS) return { detail: reason }
  const problem = parsed(reason)
  const { title, detail } = (problem ?? {}) as Record<string, unknown>
  if (!problem || typeof title !== 'string') return { detail: reason }
  return { detail: typeof detail === 'string' ? detail : title, problem }
}

/** Writes a problem object as a reason; one that is too long to be kept is left out. */
export function failureReason(problem: Readonly<Record<string, unknown>>): string | null {
  const text = JSON.stringify(problem)
  return text.length <= MAX_CHARACTERS ? text : null
}

function parsed(text: string): Readonly<Record<string, unknown>> | null {
  try {
    return JSON.parse(text) as Readonly<Record<string, unknown>>
  } catch {
    return null
  }
}
