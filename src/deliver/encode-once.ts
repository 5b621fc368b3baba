import type { JobEvent } from '../messages.ts'

/** From this length on, a text is encoded by itself: joining it to others first would copy it twice more. */
const LONG = 4_096
const utf8 = new TextEncoder()

/**
 * Makes a mode's encoder, which puts an envelope between what comes before and after it. An event is encoded for its
 * first client, and the others get the same bytes.
 */
export function encodeOnce(before: (event: JobEvent) => string, after: string): (event: JobEvent) => Buffer {
  const encoded = new WeakMap<JobEvent, Buffer>()
  return (event) => {
    const known = encoded.get(event)
    if (known) return known
    const { text } = event
    const bytes =
      text.length < LONG
        ? Buffer.from(before(event) + text + after)
        : Buffer.concat([utf8.encode(before(event)), utf8.encode(text), utf8.encode(after)])
    encoded.set(event, bytes)
    return bytes
  }
}
