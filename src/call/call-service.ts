import { randomBytes, randomUUID } from 'node:crypto'
import { Agent } from 'undici'
import { isCorrelationId } from '../messages.ts'
import type { Service } from '../steps.ts'
import { judgeAnswer, judgeError, type Answer } from './judge-answer.ts'

const MAX_ANSWER_BYTES = 1_048_576

/** One call: the step's input as JSON text, to the service, on behalf of a job. */
export interface Call {
  readonly service: Service
  /** The job's correlation identifier. */
  readonly id: string
  /** The step's name. With the job's id it is the idempotency key. */
  readonly step: string
  readonly input: string
  /** Cuts the call off; it rejects with the signal's reason. */
  readonly signal: AbortSignal
}

export interface Caller {
  call(call: Call): Promise<Answer>
  /** Cuts off what is under way. */
  close(): Promise<void>
}

/**
 * Makes what calls services (docs/PROTOCOL.md "HTTP step"). Their addresses are the operator's, from the catalogue, so
 * private ones are as good as any. Redirects are not followed.
 */
export function createCaller(): Caller {
  // How long a call may take is the service's, and counted here.
  const agent = new Agent({ headersTimeout: 0, bodyTimeout: 0, maxResponseSize: MAX_ANSWER_BYTES })

  return {
    async call({ signal, ...call }) {
      signal.throwIfAborted()
      const { timeoutMs } = call.service
      const bounds = new AbortController()
      const late = setTimeout(() => bounds.abort(), timeoutMs)
      const cutOff = () => bounds.abort()
      signal.addEventListener('abort', cutOff)
      try {
        // The race, as undici hears of an abort only once it is connected.
        return await Promise.race([exchange(call, bounds.signal), aborted(bounds.signal)])
      } catch (error) {
        signal.throwIfAborted()
        if (!bounds.signal.aborted) return judgeError(error)
        const reason = `Expected an answer within ${timeoutMs} ms, got none`
        return { status: 'failed', reason, isDown: true }
      } finally {
        clearTimeout(late)
        signal.removeEventListener('abort', cutOff)
      }
    },

    close: () => agent.destroy(),
  }

  async function exchange(call: Omit<Call, 'signal'>, signal: AbortSignal): Promise<Answer> {
    const { origin, pathname, search } = new URL(call.service.url)
    const { statusCode, headers, body } = await agent.request({
      method: 'POST',
      origin,
      path: pathname + search,
      headers: headersOf(call),
      body: call.input,
      signal,
    })
    const isGood = statusCode >= 200 && statusCode < 300
    const bytes = await body.arrayBuffer().catch((error: unknown) => {
      // The status of a failure is enough.
      if (isGood || signal.aborted) throw error
      return new ArrayBuffer(0)
    })
    return judgeAnswer(statusCode, headers, Buffer.from(bytes), Date.now())
  }
}

/** No accept-encoding: a compressed answer would be inflated by nobody. */
function headersOf({ id, step }: Omit<Call, 'signal'>): Record<string, string> {
  return {
    'content-type': 'application/json',
    accept: 'application/json, application/problem+json',
    'user-agent': 'Quartet',
    'x-correlation-id': headerValue(id),
    'idempotency-key': headerValue(`${id}.${step}`),
    traceparent: traceParentOf(id),
  }
}

/** W3C Trace Context: all calls of a job are one trace, each a span of its own. An id that is not ours has no trace. */
function traceParentOf(id: string): string {
  const trace = isCorrelationId(id) ? id : randomUUID()
  return `00-${trace.replaceAll('-', '')}-${randomBytes(8).toString('hex')}-01`
}

/** The name of a queue may have characters that a header may not. */
function headerValue(text: string): string {
  return text.replace(/[^\x21-\x7e]+/g, encodeURIComponent)
}

function aborted(signal: AbortSignal): Promise<never> {
  return new Promise((_, reject) => {
    signal.addEventListener('abort', () => reject(signal.reason as Error))
  })
}
