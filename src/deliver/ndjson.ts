import { encodeOnce } from './encode-once.ts'
import type { StreamFormat } from './stream.ts'
import { chunkOnce } from './write-through.ts'

const encode = encodeOnce(() => '', '\n')

/** Newline-delimited JSON, one event a line: https://github.com/ndjson/ndjson-spec. A silence is broken by an empty line. */
export const ndjson: StreamFormat = {
  headers: {
    'content-type': 'application/x-ndjson; charset=utf-8',
    'cache-control': 'no-store, no-transform',
    'x-accel-buffering': 'no',
  },
  preamble: '',
  encode,
  chunk: chunkOnce(encode),
  heartbeat: '\n',
  // There is no word for it: docs/PROTOCOL.md tells the client how long to wait.
  farewell: () => '',
}
