import { startMeter, type Watched } from './cpu.ts'
import { eventStream, openConnection } from './http.ts'
import { quantile, type Report } from './report.ts'

export interface StreamOptions {
  readonly urls: readonly string[]
  readonly watched: Watched
  readonly events: number
  /** Jobs, one after another; the first ones are not measured. */
  readonly warmUp: number
  readonly measured: number
}

interface Heard {
  /** From before the first was sent until the last had come. */
  readonly perSecond: number
  /** Of each event, from just before `updateProgress` until its receipt. */
  readonly delaysMs: readonly number[]
}

/** One client that follows one job with many events of progress; each must come once and in order. */
export async function stream(options: StreamOptions): Promise<Report> {
  const { urls, watched, events, warmUp, measured } = options
  const connection = openConnection(urls[0] ?? '')
  const body = JSON.stringify({ type: 'ticks', input: { rounds: [{ count: events }] } })
  for (let n = 0; n < warmUp; n++) await hear()
  const heard: Heard[] = []
  const meter = startMeter(watched)
  for (let n = 0; n < measured; n++) heard.push(await hear())
  const rates = heard.map(({ perSecond }) => perSecond).toSorted((one, other) => one - other)
  const delays = Float64Array.from(heard.flatMap(({ delaysMs }) => delaysMs)).toSorted()
  return {
    count: measured * events,
    ...meter.read(),
    values: {
      per_second: quantile(rates, 0.5),
      p50_ms: quantile(delays, 0.5),
      p99_ms: quantile(delays, 0.99),
    },
  }

  async function hear(): Promise<Heard> {
    const delaysMs: number[] = []
    let [firstSentAt, last, rest] = [NaN, NaN, '']
    const { status, text } = await connection.request(
      { method: 'POST', path: '/jobs', headers: eventStream, body },
      (piece) => {
        const now = monotonicMs()
        const lines = (rest + piece).split('\n')
        rest = lines.pop() ?? ''
        for (const line of lines) {
          const sentAt = readTick(line, delaysMs.length)
          if (sentAt === null) continue
          if (delaysMs.length === 0) firstSentAt = sentAt
          last = now
          delaysMs.push(now - sentAt)
        }
      },
    )
    if (status !== 200 || delaysMs.length !== events || !text.includes('event: job.completed'))
      throw new Error(`Expected ${events} events, got ${status} and ${delaysMs.length}: ${text.slice(-500)}`)
    return { perSecond: (events * 1_000) / (last - firstSentAt), delaysMs }
  }
}

/** When the worker sent the event that this line of a stream holds, null if it holds none. */
export function readTick(line: string, expected: number): number | null {
  const [, n, at] = /^data: .*"output":\{"n":(\d+),"at":([\d.]+)\}/.exec(line) ?? []
  if (n === undefined) return null
  if (Number(n) !== expected) throw new Error(`Expected event ${expected}, got ${n}`)
  return Number(at)
}

/** By the clock that all processes of the machine share. */
function monotonicMs(): number {
  return Number(process.hrtime.bigint()) / 1e6
}
