import type { JobEvent } from '../messages.ts'

/** Makes a mode's encoder: an event is encoded for its first client, and the others get the same bytes. */
export function encodeOnce(encode: (event: JobEvent) => string): (event: JobEvent) => Buffer {
  const encoded = new WeakMap<JobEvent, Buffer>()
  return (event) => {
    const known = encoded.get(event)
    if (known) return known
    const bytes = Buffer.from(encode(event))
    encoded.set(event, bytes)
    return bytes
  }
}
