import { get, type IncomingMessage } from 'node:http'
import { createInterface } from 'node:readline'

/*
 * A process of its own whose clients come back all at once: `storm-clients.ts <url> <per second> <seconds> <jobs>`,
 * where jobs is a JSON list of {id, seq}. Each goes on after a cursor between 0 and that seq, and holds what it gets
 * against what all others got of that job. Prints `opened` when the last has its answer, and a JSON object when all
 * have ended.
 */

interface Job {
  readonly id: string
  readonly seq: number
}

const [url = '', perSecond = '', seconds = '', list = ''] = process.argv.slice(2)
const jobs = JSON.parse(list) as Job[]
const count = Number(perSecond) * Number(seconds)

/** Of each job, the events by seq, as the first to get them had them. */
const journals = new Map(jobs.map(({ id }) => [id, new Map<number, string>()]))
const statuses: Record<string, number> = {}
const firstBytesMs: number[] = []
const faults: string[] = []
let answered = 0

const startedAt = performance.now()
const clients: Promise<void>[] = []
const timer = setInterval(() => {
  const due = Math.min(count, Math.ceil(((performance.now() - startedAt) / 1_000) * Number(perSecond)))
  while (clients.length < due) clients.push(comeBack(clients.length))
  if (clients.length < count) return
  clearInterval(timer)
  const openedMs = performance.now() - startedAt
  void Promise.all(clients).then(() => report(openedMs))
}, 5)

async function comeBack(n: number): Promise<void> {
  const { id, seq } = jobs[n % jobs.length] ?? { id: '', seq: 0 }
  const after = Math.floor(n / jobs.length) % (seq + 1)
  try {
    await follow(id, after, seq)
  } catch (error) {
    faults.push(`${id} after ${after}: ${String(error)}`)
  }
}

async function follow(id: string, after: number, seq: number): Promise<void> {
  const since = performance.now()
  const response = await request(id, after).finally(() => {
    if (++answered === count) console.log('opened')
  })
  firstBytesMs.push(performance.now() - since)
  const status = String(response.statusCode)
  statuses[status] = (statuses[status] ?? 0) + 1
  let last = after
  let isOver = false
  for await (const line of createInterface(response)) {
    const [, text, number] = /^data: (\{"seq":(\d+),.*)$/.exec(line) ?? []
    if (text === undefined) continue
    if (isOver || Number(number) !== last + 1) throw new Error(`Expected seq ${last + 1}, got ${number}`)
    last++
    isOver = /^\{"seq":\d+,"type":"job\.(completed|failed|canceled|expired)"/.test(text)
    const known = journals.get(id)?.get(last)
    if (known === undefined) journals.get(id)?.set(last, text)
    else if (known !== text) throw new Error(`Expected ${known}, got ${text}`)
  }
  const wasOver = status === '204' && after === seq
  if (!isOver && !wasOver)
    throw new Error(`Expected the terminal event, got ${status} and ${last - after} events`)
}

function request(id: string, after: number): Promise<IncomingMessage> {
  return new Promise((resolve, reject) => {
    const headers = { accept: 'text/event-stream', 'last-event-id': String(after) }
    get(`${url}/jobs/${id}/events`, { agent: false, headers }, resolve).on('error', reject)
  })
}

function report(openedMs: number): void {
  const sorted = firstBytesMs.toSorted((a, b) => a - b)
  const at = (part: number) => Math.round(sorted[Math.floor(sorted.length * part)] ?? 0)
  const perSecond = Math.round(count / (openedMs / 1_000))
  console.log(
    JSON.stringify({
      statuses,
      faults: faults.slice(0, 20),
      faulty: faults.length,
      perSecond,
      p50: at(0.5),
      p99: at(0.99),
    }),
  )
}
