/** What the clients share: the shapes of docs/PROTOCOL.md, the job to submit, and how to show what it does. */

export interface Progress {
  percent?: number
  message?: string
  output?: unknown
}

export interface Problem {
  type: string
  title: string
  status: number
  code: string
  detail?: string
  errors?: { path: string; message: string }[]
}

export interface Job {
  job_id: string
  type: string
  status: 'queued' | 'running' | 'canceling' | 'completed' | 'failed' | 'canceled' | 'expired'
  step: { name: string; index: number; count: number; attempt: number } | null
  progress: Progress | null
  result: unknown
  error: Problem | null
  seq: number
  links: { self: string; events: string; cancel: string }
}

type Described =
  | { type: 'job.queued' | 'job.snapshot'; data: Job }
  | { type: 'job.completed' | 'job.failed' | 'job.canceled' | 'job.expired'; data: Job }
  | { type: 'job.progress'; data: Progress }
  | { type: 'job.canceling'; data: Record<string, never> }
  | { type: 'step.started'; data: { step: string; index: number; attempt: number } }
  | { type: 'step.retrying'; data: { step: string; attempt: number; reason: string; delay_ms: number } }
  | { type: 'step.completed'; data: { step: string; index: number } }

export type JobEvent = Described & { seq: number; timestamp: string; job_id: string; status: Job['status'] }

export const baseUrl = process.env['QUARTET_URL'] ?? 'http://127.0.0.1:3000'
/** Where the gateway asks for one. */
export const key = process.env['QUARTET_KEY']
/** Who we are, for every call. */
export const credentials: Record<string, string> = key ? { authorization: `Bearer ${key}` } : {}

const order = {
  order_id: 'A-1',
  items: [
    { sku: 'tea', quantity: 2 },
    { sku: 'cup', quantity: 1 },
  ],
  amount_cents: 1250,
  card: '4242',
}
const [type = 'order', input = JSON.stringify(order)] = process.argv.slice(2)

/** The job to submit: `<type> <input as JSON>` from the command line, by default an order. */
export const jobRequest: object = { type, input: JSON.parse(input) }

/** Submits the job. Ends the process when it is refused. */
export async function postJob(
  headers: Record<string, string> = {},
  callback: object = {},
): Promise<Response> {
  const response = await fetch(new URL('/jobs', baseUrl), {
    method: 'POST',
    headers: { ...credentials, 'content-type': 'application/json', ...headers },
    body: JSON.stringify({ ...jobRequest, ...callback }),
  }).catch(({ cause }: Error) => {
    console.error(`${baseUrl}: ${String(cause)}`)
    process.exit(1)
  })
  if (!response.ok) fail((await response.json()) as Problem)
  return response
}

/** Says what is wrong, and ends the process with 1. */
export function fail({ status, title, detail, errors = [] }: Problem): never {
  console.error([status, title, detail].filter(Boolean).join(' · '))
  for (const { path, message } of errors) console.error(`  ${path || '/'}: ${message}`)
  process.exit(1)
}

/** Shows an event on a line of its own. */
export function printEvent(event: JobEvent): void {
  printLine(event.seq, event.type, describe(event))
}

/** Shows what is not empty, on one line. */
export function printLine(...parts: (number | string | undefined)[]): void {
  console.log(parts.filter(Boolean).join(' '))
}

/** The job in its terminal event; undefined while more events follow. */
export function finalJob({ type, data }: JobEvent): Job | undefined {
  return isTerminal(type.slice('job.'.length)) ? (data as Job) : undefined
}

export function isTerminal(status: string): boolean {
  return ['completed', 'failed', 'canceled', 'expired'].includes(status)
}

/** Shows how the job ended. The process is to exit with 0 when it completed, and with 1 otherwise. */
export function finish({ status, result, error }: Job): void {
  console.log(JSON.stringify(status === 'completed' ? result : error, null, 2))
  process.exitCode = status === 'completed' ? 0 : 1
}

export function describeProgress({ percent, message, output }: Progress): string {
  return [
    percent === undefined ? '' : `${percent}%`,
    message,
    output === undefined ? '' : JSON.stringify(output),
  ]
    .filter(Boolean)
    .join(' ')
}

function describe({ type, data }: JobEvent): string {
  if (type === 'job.progress') return describeProgress(data)
  if (type === 'step.retrying') return `${data.step}: ${data.reason}, again in ${data.delay_ms} ms`
  return 'step' in data && typeof data.step === 'string' ? data.step : ''
}
