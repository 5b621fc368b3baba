import type { ServerResponse } from 'node:http'
import type { Socket } from 'node:net'
import type { JobEvent } from '../messages.ts'

/** A larger batch goes slice by slice. */
const MAX_BYTES = 65_536
const none = Buffer.alloc(0)

/**
 * Makes what frames the events of a batch as one chunk of a body (RFC 9112 section 7.1), for its first client: the others
 * of a crowd on the same job are given the same batch, and get the same bytes. Null for a batch that is too large.
 */
export function chunkOnce(
  encode: (event: JobEvent) => Buffer,
): (events: readonly JobEvent[]) => Buffer | null {
  const known = new WeakMap<readonly JobEvent[], Buffer>()
  return (events) => {
    let chunk = known.get(events)
    if (!chunk) {
      chunk = frame(events.map(encode))
      known.set(events, chunk)
    }
    return chunk === none ? null : chunk
  }
}

/**
 * The socket under a response, if a chunk may be written to it past Node's own framing, which would be done for each
 * client again: the head is out, the body is in chunks, and no earlier answer on the connection is still under way.
 */
export function socketFor(response: ServerResponse): Socket | null {
  return response.headersSent && response.chunkedEncoding && response.socket?.writable
    ? response.socket
    : null
}

function frame(encoded: readonly Buffer[]): Buffer {
  const size = encoded.reduce((sum, { length }) => sum + length, 0)
  if (size > MAX_BYTES) return none
  return Buffer.concat([Buffer.from(`${size.toString(16)}\r\n`), ...encoded, Buffer.from('\r\n')])
}
