import { randomInt } from 'node:crypto'
import { encodeComment } from 'eventsource-encoder'
import { encodeOnce } from './encode-once.ts'
import type { StreamFormat } from './stream.ts'
import { chunkOnce } from './write-through.ts'

const RETRY_MS = 2_000
/** When the clients of a stream that is ended early are to come back: spread, as thousands may be ended at once. */
const EARLY_RETRY_MS = { from: 500, to: 5_000 }

/** An envelope is one line. */
const encode = encodeOnce(({ seq, type }) => `event: ${type}\nid: ${seq}\ndata: `, '\n\n')

/** Server-sent events: https://html.spec.whatwg.org/multipage/server-sent-events.html, docs/PROTOCOL.md "SSE". */
export const sse: StreamFormat = {
  headers: {
    'content-type': 'text/event-stream; charset=utf-8',
    'cache-control': 'no-store, no-transform',
    // nginx would otherwise keep events back until its buffer is full.
    'x-accel-buffering': 'no',
  },
  preamble: `retry: ${RETRY_MS}\n\n`,
  encode,
  chunk: chunkOnce(encode),
  heartbeat: encodeComment('ping'),
  farewell: () => `retry: ${EARLY_RETRY_MS.from + randomInt(EARLY_RETRY_MS.to - EARLY_RETRY_MS.from)}\n\n`,
}
