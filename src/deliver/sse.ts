import { encode, encodeComment } from 'eventsource-encoder'
import type { JobEvent } from '../messages.ts'
import type { StreamFormat } from './stream.ts'

const RETRY_MS = 2_000

const encoded = new WeakMap<JobEvent, Buffer>()

/** Server-sent events: https://html.spec.whatwg.org/multipage/server-sent-events.html, docs/PROTOCOL.md "SSE". */
export const sse: StreamFormat = {
  headers: {
    'content-type': 'text/event-stream; charset=utf-8',
    'cache-control': 'no-store, no-transform',
    // nginx would otherwise keep events back until its buffer is full.
    'x-accel-buffering': 'no',
  },
  preamble: `retry: ${RETRY_MS}\n\n`,
  encode(event) {
    const known = encoded.get(event)
    if (known) return known
    const bytes = Buffer.from(encode({ id: String(event.seq), event: event.type, data: event.text }))
    encoded.set(event, bytes)
    return bytes
  },
  heartbeat: encodeComment('ping'),
}
