import { Client, type Dispatcher } from 'undici'

export interface Answer {
  readonly status: number
  readonly text: string
}

/** One connection. Its requests follow one another, but for those that are `idempotent`. */
export interface Connection {
  /** @param onText told of each piece of the answer's body as it comes */
  request(options: Request, onText?: (text: string) => void): Promise<Answer>
  close(): Promise<void>
}

export interface Request {
  readonly method: 'GET' | 'POST' | 'DELETE'
  readonly path: string
  readonly headers?: Record<string, string>
  readonly body?: string
  /** Whether it may be sent before the one before is answered. */
  readonly idempotent?: boolean
}

/** Longer than anything here takes: what hangs must not hang the benchmark. */
const TIMEOUT_MS = 30_000
const PIPELINING = 100

/** By undici's `dispatch`, without the streams that its `request` makes: the load client must cost little. */
export function openConnection(url: string): Connection {
  const client = new Client(url, {
    pipelining: PIPELINING,
    headersTimeout: TIMEOUT_MS,
    bodyTimeout: TIMEOUT_MS,
  })
  return {
    request: (options, onText) =>
      new Promise((resolve, reject) => client.dispatch(options, collect(resolve, reject, onText))),
    close: () => client.destroy(),
  }
}

function collect(
  resolve: (answer: Answer) => void,
  reject: (error: Error) => void,
  onText?: (text: string) => void,
): Dispatcher.DispatchHandler {
  let status = 0
  let text = ''
  return {
    onRequestStart() {},
    onResponseStart(_controller, statusCode) {
      status = statusCode
    },
    onResponseData(_controller, chunk) {
      const piece = chunk.toString()
      text += piece
      onText?.(piece)
    },
    onResponseEnd: () => resolve({ status, text }),
    onResponseError: (_controller, error) => reject(error),
  }
}

export const json = { 'content-type': 'application/json' }
export const eventStream = { ...json, accept: 'text/event-stream' }
