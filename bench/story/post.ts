import { Agent, request } from 'undici'

/** As many connections as there are calls at a time, kept open. */
const agent = new Agent({ headersTimeout: 0, bodyTimeout: 0 })

export interface Posted {
  /** Null when there was no answer in time, or no connection. */
  readonly status: number | null
  readonly text: string
  readonly ms: number
}

/** POSTs JSON text, and gives up after a time. */
export async function post(
  url: string,
  body: string,
  { timeoutMs, headers = {} }: { readonly timeoutMs: number; readonly headers?: Record<string, string> },
): Promise<Posted> {
  const since = performance.now()
  const signal = AbortSignal.timeout(timeoutMs)
  try {
    const all = { 'content-type': 'application/json', ...headers }
    const answer = await request(url, { method: 'POST', headers: all, body, signal, dispatcher: agent })
    const text = await answer.body.text()
    return { status: answer.statusCode, text, ms: performance.now() - since }
  } catch {
    return { status: null, text: '', ms: performance.now() - since }
  }
}

/** GETs JSON. */
export async function getJson<T>(url: string, headers: Record<string, string> = {}): Promise<T> {
  const answer = await request(url, { headers, dispatcher: agent })
  return (await answer.body.json()) as T
}

/** POSTs JSON text and reads the events of the answer, until one is enough. */
export async function postStream(
  url: string,
  body: string,
  isEnough: (text: string) => boolean,
): Promise<void> {
  const headers = { 'content-type': 'application/json', accept: 'text/event-stream' }
  const answer = await request(url, { method: 'POST', headers, body, dispatcher: agent })
  let text = ''
  for await (const chunk of answer.body) {
    text += String(chunk)
    if (isEnough(text)) return
  }
  throw new Error(`Expected an event that is enough, got the end of ${text}`)
}
