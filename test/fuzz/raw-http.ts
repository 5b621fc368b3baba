import { once } from 'node:events'
import { connect, type Socket } from 'node:net'

/** A request that is well framed, one character a byte. */
export interface RawRequest {
  readonly method: string
  readonly target: string
  readonly headers: readonly (readonly [name: string, value: string])[]
  /** Null for none, and no `Content-Length` then. */
  readonly body: string | null
}

/** An answer as it came over the wire. */
export interface RawAnswer {
  readonly status: number
  /** As they came, each time that they came, names in lower case. */
  readonly headers: readonly (readonly [name: string, value: string])[]
  readonly body: string
}

export function headerOf({ headers }: RawAnswer, name: string): string | undefined {
  return headers.find(([each]) => each === name)?.[1]
}

export function toBytes({ method, target, headers, body }: RawRequest): Buffer {
  const lines = headers.map(([name, value]) => `${name}: ${value}\r\n`).join('')
  const length = body === null ? '' : `content-length: ${body.length}\r\n`
  return Buffer.from(`${method} ${target} HTTP/1.1\r\n${lines}${length}\r\n${body ?? ''}`, 'latin1')
}

/**
 * Reads one answer off the beginning of what has come (RFC 9112), and throws at whatever a client could misunderstand.
 *
 * @param isOver whether the connection has ended
 * @returns null when more is to come; `rest` is what follows the answer
 */
export function readAnswer(
  received: string,
  method: string,
  isOver: boolean,
): { answer: RawAnswer; rest: string } | null {
  const end = received.indexOf('\r\n\r\n')
  if (end < 0) return null
  const [statusLine = '', ...lines] = received.slice(0, end).split('\r\n')
  const status = Number(/^HTTP\/1\.1 ([1-5]\d\d) [\x20-\x7e]+$/.exec(statusLine)?.[1])
  if (Number.isNaN(status)) throw new Error(`Expected a status line, got ${JSON.stringify(statusLine)}`)
  const headers = lines.map((line) => {
    const [, name = '', value = ''] = /^([\w-]+): ?([\t\x20-\x7e]*)$/.exec(line) ?? []
    if (name === '') throw new Error(`Expected a header, got ${JSON.stringify(line)}`)
    return [name.toLowerCase(), value] as const
  })
  const rest = received.slice(end + 4)
  if (status === 101) return { answer: { status, headers, body: rest }, rest: '' }
  if (status < 200) return readAnswer(rest, method, isOver)
  const answer = { status, headers, body: '' }
  if (method === 'HEAD' || status === 204 || status === 304) return { answer, rest }
  if (headerOf(answer, 'transfer-encoding') === 'chunked') return readChunks(answer, rest)
  const length = headerOf(answer, 'content-length')
  if (length === undefined) return isOver ? { answer: { ...answer, body: rest }, rest: '' } : null
  if (rest.length < Number(length)) return null
  return { answer: { ...answer, body: rest.slice(0, Number(length)) }, rest: rest.slice(Number(length)) }
}

function readChunks(answer: RawAnswer, rest: string): { answer: RawAnswer; rest: string } | null {
  const chunks: string[] = []
  for (let at = 0; ;) {
    const end = rest.indexOf('\r\n', at)
    if (end < 0) return null
    const size = rest.slice(at, end)
    if (!/^[\da-f]+$/i.test(size))
      throw new Error(`Expected the size of a chunk, got ${JSON.stringify(size)}`)
    const from = end + 2
    const to = from + parseInt(size, 16)
    if (rest.length < to + 2) return null
    if (rest.slice(to, to + 2) !== '\r\n') throw new Error('Expected the end of a chunk')
    if (from === to) return { answer: { ...answer, body: chunks.join('') }, rest: rest.slice(to + 2) }
    chunks.push(rest.slice(from, to))
    at = to + 2
  }
}

/** How long an answer may take before there is none. */
const PATIENCE_MS = 30_000

/** Sends requests over connections that are kept, each with one request at a time. */
export function createSender(url: string) {
  const idle: Socket[] = []
  const port = Number(new URL(url).port)

  return {
    async send(request: RawRequest): Promise<RawAnswer> {
      const kept = idle.pop()
      const answer = await exchange(kept ?? open(), request, kept !== undefined)
      // The server has ended the connection just when it was used again.
      return answer ?? this.send(request)
    },
    close() {
      for (const socket of idle) socket.destroy()
    },
  }

  function open(): Socket {
    return connect(port, '127.0.0.1')
      .setNoDelay()
      .setEncoding('latin1')
      .on('error', () => undefined)
  }

  function exchange(socket: Socket, request: RawRequest, isKept: boolean): Promise<RawAnswer | null> {
    return new Promise((resolve, reject) => {
      let received = ''
      const timer = setTimeout(() => fail(`nothing in ${PATIENCE_MS} ms`), PATIENCE_MS)
      socket.on('data', read).on('close', onClose)
      socket.write(toBytes(request))

      function read(data: string): void {
        received += data
        look(false)
      }
      function look(isOver: boolean): void {
        try {
          const found = readAnswer(received, request.method, isOver)
          if (!found) return
          // What could not be read has no method either: its answer has a body, and ends the connection.
          const isRead = headerOf(found.answer, 'x-request-id') !== undefined
          if (found.rest !== '' && isRead)
            return fail(`more than an answer: ${JSON.stringify(found.rest.slice(0, 500))}`)
          release()
          if (isOver || headerOf(found.answer, 'connection') === 'close') socket.destroy()
          else idle.push(socket)
          resolve(found.answer)
        } catch (error) {
          fail((error as Error).message)
        }
      }
      function onClose(): void {
        if (received === '' && isKept) {
          release()
          return resolve(null)
        }
        look(true)
        fail(`the end of the connection after ${JSON.stringify(received.slice(0, 500))}`)
      }
      function fail(what: string): void {
        release()
        socket.destroy()
        reject(new Error(`Expected one answer to ${JSON.stringify(request).slice(0, 4_000)}, got ${what}`))
      }
      function release(): void {
        clearTimeout(timer)
        socket.off('data', read).off('close', onClose)
      }
    })
  }
}

/** After so long a silence there is nothing more to say: what was sent is part of a request. */
const SILENCE_MS = 100

/**
 * Sends bytes on a connection of their own, and reads until the gateway ends it.
 *
 * @returns its answers
 */
export async function sendBytes(url: string, bytes: string): Promise<RawAnswer[]> {
  const socket = connect(Number(new URL(url).port), '127.0.0.1').setEncoding('latin1')
  let received = ''
  socket.on('data', (data: string) => (received += data)).on('error', () => undefined)
  socket.setTimeout(SILENCE_MS, () => socket.end())
  socket.write(Buffer.from(bytes, 'latin1'))
  await once(socket, 'close', { signal: AbortSignal.timeout(PATIENCE_MS) })
  const answers: RawAnswer[] = []
  while (received !== '') {
    const found = readAnswer(received, methodOf(bytes), true)
    if (!found) throw new Error(`Expected whole answers, got ${JSON.stringify(received.slice(0, 2_000))}`)
    answers.push(found.answer)
    received = found.rest
  }
  return answers
}

const methodOf = (bytes: string): string => (/^[\r\n]*HEAD /.test(bytes) ? 'HEAD' : '')
