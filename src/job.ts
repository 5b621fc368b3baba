import type { EventType, JobRecord } from './messages.ts'

/*
 * JSON is put together from text here, so that results and outputs travel as the JSON they came in: a number keeps
 * its digits, a large result is never parsed or serialised again (invariant 9).
 */

/** The job object of docs/PROTOCOL.md "The job". `result` is JSON text. */
export function jobText(job: JobRecord, result = 'null'): string {
  const self = `/jobs/${job.id}`
  return (
    `{"job_id":"${job.id}","type":${JSON.stringify(job.type)},"status":"${job.status}",` +
    `"step":${stepText(job)},"progress":${JSON.stringify(job.progress)},` +
    `"result":${result},"error":${JSON.stringify(job.error)},"seq":${job.seq},` +
    `"metadata":${JSON.stringify(job.metadata)},` +
    `"created_at":${timeText(job.createdAt)},"started_at":${timeText(job.startedAt)},` +
    `"finished_at":${timeText(job.finishedAt)},"expires_at":${timeText(job.expiresAt)},` +
    `"links":{"self":"${self}","events":"${self}/events","cancel":"${self}/cancel"}}`
  )
}

function stepText({ route, step, attempt }: JobRecord): string {
  return JSON.stringify({ name: route[step], index: step, count: route.length, attempt })
}

/** The text of each second that was told of lately: most times are of one of a few. */
const seconds = new Map<number, string>()
const MAX_SECONDS = 64

/** A time as JSON text: RFC 3339 with milliseconds. */
export function timeText(ms: number | null): string {
  if (ms === null || Number.isNaN(ms)) return 'null'
  const second = Math.floor(ms / 1_000)
  let text = seconds.get(second)
  if (text === undefined) {
    if (seconds.size >= MAX_SECONDS) seconds.clear()
    text = `"${new Date(second * 1_000).toISOString().slice(0, -4)}`
    seconds.set(second, text)
  }
  const rest = ms - second * 1_000
  return `${text}${rest < 10 ? '00' : rest < 100 ? '0' : ''}${rest}Z"`
}

/** The envelope of docs/PROTOCOL.md "The event", for the job's present seq. `data` is JSON text. */
export function eventText(job: JobRecord, type: EventType, data: string): string {
  return (
    `{"seq":${job.seq},"type":"${type}","timestamp":${timeText(job.updatedAt)},` +
    `"job_id":"${job.id}","status":"${job.status}","data":${data}}`
  )
}

/** What stands in for the events that a bounded journal no longer has: the job, at the last trimmed seq. */
export function snapshotText(job: JobRecord, current: string, trimmed: number): string {
  const text = eventText({ ...job, seq: trimmed }, 'job.snapshot', current)
  return `${text.slice(0, -1)},"truncated":true}`
}

/** The `data` of an envelope, still as text: for a terminal event, the job. */
export function dataOf(envelope: string): string {
  return envelope.slice(envelope.indexOf(',"data":') + 8, -1)
}

/** The `result` of a terminal job's text. `error` follows it, and both are ours to find: the result is in between. */
export function resultOf(job: JobRecord, text: string): string {
  const before = jobText(job).indexOf('"result":null') + '"result":'.length
  const after = jobText(job).length - before - 'null'.length
  return text.slice(before, text.length - after)
}

/** A JSON text without line breaks (outside strings JSON has them as mere space), so that an event is one line. */
export function oneLine(json: string): string {
  return /[\r\n]/.test(json) ? json.replace(/[\r\n]+/g, ' ') : json
}
