import { closedLoop, type LoopOptions } from './closed-loop.ts'
import { eventStream, json, openConnection } from './http.ts'
import type { Report } from './report.ts'

const SAMPLE = 50

const echo = (n: number) => JSON.stringify({ type: 'echo', input: { hello: 'world', n } })

/** POST → 202. Some of the jobs are looked up in the end: they must be there. */
export async function accept(options: LoopOptions): Promise<Report> {
  const ids: string[] = []
  const report = await closedLoop(options, async (connection, n) => {
    const { status, text } = await connection.request({
      method: 'POST',
      path: '/jobs',
      headers: json,
      body: echo(n),
    })
    const id = /"job_id":"([^"]+)"/.exec(text)?.[1]
    if (status !== 202 || id === undefined) throw new Error(`Expected 202 with a job, got ${status}: ${text}`)
    ids.push(id)
  })
  const connection = openConnection(options.urls[0] ?? '')
  for (let n = 0; n < SAMPLE; n++) {
    const id = ids[Math.floor((n * ids.length) / SAMPLE)]
    const { status, text } = await connection.request({ method: 'GET', path: `/jobs/${id}` })
    if (status !== 200 || !text.includes(`"${id}"`))
      throw new Error(`Expected job ${id}, got ${status}: ${text}`)
  }
  await connection.close()
  return report
}

/** POST, answered with the job's events until it has completed with the result that was asked for. */
export function endToEnd(options: LoopOptions): Promise<Report> {
  return closedLoop(options, async (connection, n) => {
    const { status, text } = await connection.request({
      method: 'POST',
      path: '/jobs',
      headers: eventStream,
      body: echo(n),
    })
    if (status !== 200 || !isCompleted(text, n)) throw new Error(`Expected a result, got ${status}: ${text}`)
  })
}

function isCompleted(text: string, n: number): boolean {
  const at = text.lastIndexOf('event: job.completed')
  return at !== -1 && text.includes(`"n":${n}}`, at)
}
