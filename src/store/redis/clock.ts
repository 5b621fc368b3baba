/** The clock of another machine, known from what it says at times. Milliseconds since the epoch. */
export interface Clock {
  readonly now: () => number
  /** It said `now` in answer to what was asked at `sentAt` (by our own clock) and has just arrived. */
  observe(now: number, sentAt: number): void
}

export function createClock(local: () => number = Date.now): Clock {
  let offset = 0
  return {
    now: () => local() + offset,

    // It was read between asking and answering: what we believe is corrected only where it cannot be true.
    observe(now, sentAt) {
      offset = Math.min(Math.max(offset, now - local()), now - sentAt)
    },
  }
}
