import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { createServer, type AddressInfo, type Server, type Socket } from 'node:net'
import { setInterval } from 'node:timers'
import { createServer as createTlsServer, type TlsOptions } from 'node:tls'
import { gzipSync } from 'node:zlib'
import type { Test } from 'tap'

/*
 * Receivers of webhooks that do everything but what they should, each on a port of loopback of its own, and what is to
 * be recorded of a try at each.
 */

/** In a header and in the body of every answer. No record may hold it. */
export const marker = 'hunter2'

export interface HostileReceiver {
  readonly url: string
  /** Connections taken so far. */
  connections(): number
  /** Requests whose first line came so far. */
  requests(): number
  /** Resolves when nobody is connected. */
  left(): Promise<void>
}

export interface Fault {
  /** Listens until the test ends. */
  readonly start: (t: Pick<Test, 'teardown'>) => Promise<HostileReceiver>
  /** What a try that has little time ends with: a pattern for `t.match`. */
  readonly outcome: object
}

/** What a receiver does with a connection, once: at its first bytes, or when it is there. */
type Act = (socket: Socket) => unknown

/** One test key for them all, which nobody trusts who is not told to. */
export const testTls = {
  key: readFileSync(new URL('fixtures/localhost.key', import.meta.url), 'utf8'),
  cert: readFileSync(new URL('fixtures/localhost.crt', import.meta.url), 'utf8'),
}

const HEAD = `HTTP/1.1 200 OK\r\nx-secret: ${marker}\r\n`
const TRICKLE_MS = 20
const CHUNK = Buffer.alloc(65_536, marker)
const MB_100 = 100 * 1024 * 1024
/** Made before anybody waits for it. */
const BOMB = gzipSync(Buffer.alloc(MB_100 / 10))

const delivered = { status: 'delivered', statusCode: 200 }
const failed = (reason: string, error: RegExp | string) => ({ status: 'failed', reason, error })
const late = failed('timeout', /^Expected an answer within \d+ ms, got none$/)
const cutOff = failed('network', /ECONNRESET|EPIPE|hang up|other side closed/)

/** By what each does. */
export const faults = {
  'hangs up at once': fault((socket) => socket.destroy(), cutOff, { isEager: true }),
  'resets before the headers': fault((socket) => socket.resetAndDestroy(), cutOff),
  'hangs up in the middle of the headers': fault((socket) => socket.end(HEAD), cutOff),
  'hangs before the headers': fault(() => {}, late),
  'trickles headers': fault((socket) => trickle(socket, HEAD, 'x'), late),
  'trickles a body': fault((socket) => trickle(socket, `${HEAD}\r\n`, '.'), delivered),
  'trickles the body of an error': fault((socket) => trickle(socket, `HTTP/1.1 500 ${marker}\r\n\r\n`, '.'), {
    ...failed('http_status', 'Expected a 2xx status, got 500'),
    statusCode: 500,
  }),
  'sends a body without end': fault((socket) => flood(socket, `${HEAD}\r\n`, CHUNK), delivered),
  'sends 100 MB and says so': fault(
    (socket) => flood(socket, `${HEAD}content-length: ${MB_100}\r\n\r\n`, CHUNK),
    delivered,
  ),
  'sends a gzip bomb': fault(
    (socket) => flood(socket, `${HEAD}content-encoding: gzip\r\n\r\n`, BOMB),
    delivered,
  ),
  'sends chunks of nothing without end': fault(
    (socket) => flood(socket, `${HEAD}transfer-encoding: chunked\r\n\r\n1;`, CHUNK),
    delivered,
  ),
  'sends 1xx answers without end': fault(
    (socket) => flood(socket, '', `HTTP/1.1 103 Early Hints\r\nlink: <${marker}>\r\n\r\n`.repeat(1_000)),
    failed('network', 'Expected an answer of at most 65536 bytes, got more'),
  ),
  'sends a header of 1 MB': fault(
    (socket) => socket.end(`${HEAD}x-long: ${marker.repeat(150_000)}\r\n\r\n`),
    failed('network', 'Headers Overflow Error'),
  ),
  'sends headers without end': fault(
    (socket) => flood(socket, HEAD, `x-long: ${marker.repeat(1_000)}\r\n`),
    failed('network', 'Headers Overflow Error'),
  ),
  'answers 200 and resets': fault(
    (socket) => socket.write(`${HEAD}content-length: 100\r\n\r\n${marker}`, () => socket.resetAndDestroy()),
    delivered,
  ),
  'answers before the body was taken': fault((socket) => {
    socket.pause()
    socket.write(`${HEAD}content-length: 0\r\n\r\n`)
  }, delivered),
  'answers twice': fault(
    (socket) =>
      socket.write(`${HEAD}content-length: 0\r\n\r\nHTTP/1.1 500 ${marker}\r\ncontent-length: 0\r\n\r\n`),
    delivered,
  ),
  'asks to continue': fault(
    (socket) => socket.write('HTTP/1.1 100 Continue\r\n\r\n'),
    failed('network', 'bad response'),
  ),
  'switches protocols': fault(
    (socket) => socket.write(`HTTP/1.1 101 ${marker}\r\nupgrade: ${marker}\r\nconnection: upgrade\r\n\r\n`),
    failed('network', 'bad upgrade'),
  ),
  'speaks no HTTP': fault(
    (socket) => socket.write(`SSH-2.0-${marker}\r\n`),
    failed('network', /^Response does not match the HTTP\/1\.1 protocol \(.*\)$/),
  ),
  'redirects to a metadata address': fault(
    answer('302 Found', `location: http://169.254.169.254/latest/meta-data?${marker}`),
    {
      ...failed('redirect', 'Expected a 2xx status, got 302; redirects are not followed'),
      statusCode: 302,
    },
  ),
  'is gone': fault(answer('410 Gone'), { status: 'gone', statusCode: 410 }),
  'is too busy for 7 s': fault(answer('429 Too Many Requests', 'retry-after: 7'), {
    ...failed('http_status', 'Expected a 2xx status, got 429'),
    retryAfterMs: 7_000,
  }),
  'is away for 9 s': fault(answer('503 Service Unavailable', 'retry-after: 9'), {
    ...failed('http_status', 'Expected a 2xx status, got 503'),
    retryAfterMs: 9_000,
  }),
  'speaks plain text where TLS is expected': fault(
    (socket) => socket.end(`HTTP/1.1 400 ${marker}\r\n\r\n`),
    failed('tls', /^Expected a TLS connection, got [a-z ]+$/),
    { scheme: 'https' },
  ),
  'hangs in the TLS handshake': fault(
    () => {},
    failed('timeout', /^Expected a connection within \d+ ms, got none$/),
    {
      scheme: 'https',
    },
  ),
  'resets in the TLS handshake': fault((socket) => socket.resetAndDestroy(), cutOff, { scheme: 'https' }),
  'hangs up in the TLS handshake': fault(
    (socket) => socket.end(),
    failed('network', /disconnected before secure TLS/),
    { scheme: 'https' },
  ),
  'has a certificate that nobody signed': fault(
    answer('200 OK'),
    failed('tls', 'Expected a TLS connection, got self-signed certificate'),
    { scheme: 'https', tls: testTls },
  ),
  'speaks only TLS 1.1': fault(
    answer('200 OK'),
    failed('tls', /^Expected a TLS connection, got .*(version|protocol)/),
    {
      scheme: 'https',
      tls: { ...testTls, minVersion: 'TLSv1.1', maxVersion: 'TLSv1.1', ciphers: 'DEFAULT@SECLEVEL=0' },
    },
  ),
} satisfies Record<string, Fault>

interface How {
  scheme?: 'http' | 'https'
  /** The receiver speaks TLS. */
  tls?: TlsOptions
  /** It acts as soon as somebody is connected. */
  isEager?: boolean
}

function fault(act: Act, outcome: object, how: How = {}): Fault {
  return { start: (t) => startReceiver(t, act, how), outcome }
}

/** One that does what it should: answers 200, again and again. */
export function startGoodReceiver(
  t: Pick<Test, 'teardown'>,
  { isSecure = false }: { isSecure?: boolean } = {},
): Promise<HostileReceiver> {
  const act: Act = (socket) => {
    answer('200 OK')(socket)
    socket.on('data', () => answer('200 OK')(socket))
  }
  return startReceiver(t, act, isSecure ? { scheme: 'https', tls: testTls } : {})
}

async function startReceiver(
  t: Pick<Test, 'teardown'>,
  act: Act,
  { scheme = 'http', tls, isEager = false }: How,
): Promise<HostileReceiver> {
  const sockets = new Set<Socket>()
  let connections = 0
  let requests = 0
  const server: Server = tls ? createTlsServer(tls, talk) : createServer(talk)
  server.on('connection', (socket: Socket) => {
    connections++
    sockets.add(socket)
    socket.on('error', () => {}).on('close', () => sockets.delete(socket))
  })

  function talk(socket: Socket) {
    socket.on('error', () => {})
    socket.on('data', (data) => {
      if (data.toString('latin1', 0, 5) === 'POST ') requests++
    })
    if (isEager) act(socket)
    else socket.once('data', () => act(socket))
  }

  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => {
    server.close()
    for (const socket of sockets) socket.destroy()
  })
  const host = tls ? 'localhost' : '127.0.0.1' // whom the certificate is for
  return {
    url: `${scheme}://${host}:${(server.address() as AddressInfo).port}/hook`,
    connections: () => connections,
    requests: () => requests,
    async left() {
      // Whoever does not read does not see the end.
      for (const socket of sockets) await new Promise((gone) => socket.resume().once('close', gone))
    },
  }
}

function answer(status: string, ...headers: readonly string[]): Act {
  const lines = [`HTTP/1.1 ${status}`, ...headers, `x-secret: ${marker}`, `content-length: ${marker.length}`]
  return (socket) => socket.write(`${lines.join('\r\n')}\r\n\r\n${marker}`)
}

/** Byte after byte, so that no pause is ever long. */
function trickle(socket: Socket, head: string, byte: string): void {
  socket.write(head)
  const timer = setInterval(() => socket.write(byte), TRICKLE_MS)
  socket.on('close', () => clearInterval(timer))
}

/** As fast as it is taken, for ever. */
function flood(socket: Socket, head: string, chunk: Buffer | string): void {
  const more = () => {
    while (!socket.destroyed && socket.write(chunk));
  }
  if (head !== '') socket.write(head)
  socket.on('drain', more)
  more()
}
