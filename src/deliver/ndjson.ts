import type { JobEvent } from '../messages.ts'
import type { StreamFormat } from './stream.ts'

const encoded = new WeakMap<JobEvent, Buffer>()

/** Newline-delimited JSON, one event a line: https://github.com/ndjson/ndjson-spec. A silence is broken by an empty line. */
export const ndjson: StreamFormat = {
  headers: {
    'content-type': 'application/x-ndjson; charset=utf-8',
    'cache-control': 'no-store, no-transform',
    'x-accel-buffering': 'no',
  },
  preamble: '',
  encode(event) {
    const known = encoded.get(event)
    if (known) return known
    const bytes = Buffer.from(`${event.text}\n`)
    encoded.set(event, bytes)
    return bytes
  },
  heartbeat: '\n',
}
