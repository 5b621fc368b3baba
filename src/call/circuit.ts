const FAILURES_TO_OPEN = 10
const WAITS_MS = [5_000, 10_000, 20_000, 40_000, 60_000]
const JITTER = 0.2
/** Nobody waits longer for a service that asks for it: somebody has to look. */
const LONGEST_ASKED_MS = 60_000

/** What a call that is over says of the service: that it answers, that it fails (and when to come back), or nothing. */
export type Health = 'up' | 'unknown' | { readonly downForMs: number }

/**
 * Keeps calls from a service that fails: ten failures in a row open the circuit, and who wants to call then waits. When
 * its time is over one call is let through, to see: its success closes the circuit, its failure keeps it open for longer.
 */
export interface Circuit {
  readonly isOpen: boolean
  /**
   * Resolves when a call may be made, to a function that is to be told, once, what the call said of the service.
   * Rejects with the signal's reason.
   */
  enter(signal: AbortSignal): Promise<(health: Health) => void>
}

/** @param onChange told until when the circuit is open, in ms since the epoch; null when it has closed */
export function createCircuit(
  onChange: (openUntil: number | null) => void,
  waitsMs: readonly number[] = WAITS_MS,
): Circuit {
  let failures = 0
  /** How often in a row it has opened; 0 while it is closed. */
  let openings = 0
  let openUntil = 0
  let isProbing = false
  const waiting = new Set<() => void>()

  return {
    get isOpen() {
      return openings > 0
    },

    async enter(signal) {
      for (;;) {
        signal.throwIfAborted()
        if (openings === 0) return (health) => settle(health, false)
        if (!isProbing && Date.now() >= openUntil) {
          isProbing = true
          return (health) => settle(health, true)
        }
        await changed(signal)
      }
    },
  }

  /** Resolves when the circuit has changed, or its time is over, or the signal is aborted. */
  function changed(signal: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      const timer = isProbing ? undefined : setTimeout(wake, openUntil - Date.now())
      waiting.add(wake)
      signal.addEventListener('abort', wake)

      function wake(): void {
        clearTimeout(timer)
        waiting.delete(wake)
        signal.removeEventListener('abort', wake)
        resolve()
      }
    })
  }

  function settle(health: Health, isProbe: boolean): void {
    if (isProbe) isProbing = false
    if (health === 'up') close()
    else if (health !== 'unknown' && mayOpen(isProbe)) open(health.downForMs)
    // Also when the probe said nothing: then another one is due.
    for (const wake of waiting) wake()
  }

  /** Calls that were under way when it opened do not prolong it. */
  function mayOpen(isProbe: boolean): boolean {
    failures += 1
    return openings > 0 ? isProbe : failures >= FAILURES_TO_OPEN
  }

  function open(atLeastMs: number): void {
    const wait = waitsMs[Math.min(openings, waitsMs.length - 1)] ?? 0
    openings += 1
    const askedMs = Math.min(atLeastMs, LONGEST_ASKED_MS)
    openUntil = Date.now() + Math.max(askedMs, wait * (1 - JITTER + 2 * JITTER * Math.random()))
    onChange(openUntil)
  }

  function close(): void {
    failures = 0
    if (openings === 0) return
    openings = 0
    onChange(null)
  }
}
