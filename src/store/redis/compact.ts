import { eventText, jobText, timeText } from '../../job.ts'
import { isTerminal, type EventType, type JobRecord, type JobStatus } from '../../messages.ts'

/*
 * How records and events are kept: without what can be told from the key or from each other, which is most of them
 * (docs/RELIABILITY.md "Memory"). Whatever is taken out here is put back to the byte (invariant 3).
 */

/** Times are kept as milliseconds after the job's creation. */
const kinds: Readonly<Record<Exclude<keyof JobRecord, 'id' | 'createdAt'>, 'plain' | 'time'>> = {
  tenant: 'plain',
  type: 'plain',
  route: 'plain',
  status: 'plain',
  step: 'plain',
  attempt: 'plain',
  active: 'plain',
  ending: 'plain',
  progress: 'plain',
  error: 'plain',
  seq: 'plain',
  metadata: 'plain',
  priority: 'plain',
  notBefore: 'time',
  startedAt: 'time',
  updatedAt: 'time',
  finishedAt: 'time',
  expiresAt: 'time',
  deadlineAt: 'time',
  retentionMs: 'plain',
  journalLimit: 'plain',
}
const fields = Object.entries(kinds) as [keyof typeof kinds, 'plain' | 'time'][]

/** A record as a JSON array: its creation time, then the values in the order above. */
export function packRecord(record: JobRecord): string {
  const { createdAt } = record
  const values: unknown[] = [createdAt]
  for (const [name, kind] of fields) {
    const value = record[name]
    values.push(kind === 'time' && typeof value === 'number' ? value - createdAt : value)
  }
  return JSON.stringify(values)
}

export function unpackRecord(id: string, text: string): JobRecord {
  // As 0.1.0 kept it; so do events, which count as kept whole.
  if (text.startsWith('{')) return JSON.parse(text) as JobRecord
  const values = JSON.parse(text) as [number, ...unknown[]]
  const createdAt = values[0]
  const record: Record<string, unknown> = { id, createdAt }
  for (const [index, [name, kind]] of fields.entries()) {
    const value = values[index + 1]
    record[name] = kind === 'time' && typeof value === 'number' ? value + createdAt : value
  }
  return record as unknown as JobRecord
}

const envelope =
  /^\{"seq":(\d+),"type":"([a-z.]+)","timestamp":"([^"]+)","job_id":"([^"]+)","status":"([a-z]+)","data":/
const packed = /^([a-z.]+) (-?\d+) ([a-z]+) /

/**
 * Kept are the type, the time, the status and the data; of a terminal event's data only the result, of the first
 * event's nothing, as the record has the rest. An event that could not be put together again is kept whole.
 *
 * @param record the job after the event's change; what it says of an ended job holds for good
 */
export function packEvent(record: JobRecord, seq: number, text: string): string {
  const [head = '', number, type = '', timestamp = '', id, status = ''] = envelope.exec(text) ?? []
  const time = `"${timestamp}"`
  // The last of a change's events has the time of the record.
  const isLast = time === timeText(record.updatedAt)
  const ms = isLast ? record.updatedAt : Date.parse(timestamp)
  const isOurs = number === String(seq) && id === record.id && (isLast || timeText(ms) === time)
  if (!isOurs) return text
  const [before, after] = surroundings(record, type as EventType)
  if (!text.startsWith(before, head.length) || !text.endsWith(`${after}}`)) return text
  const data = text.slice(head.length + before.length, text.length - after.length - 1)
  return type === 'job.queued' && data !== '' ? text : `${type} ${ms} ${status} ${data}`
}

/** The event's text again. */
export function unpackEvent(record: JobRecord, seq: number, kept: string): string {
  const [prefix = '', type = '', ms = '', status = ''] = packed.exec(kept) ?? []
  if (prefix === '') return kept
  const event = { type: type as EventType, ms: Number(ms), status: status as JobStatus }
  const [before, after] = surroundings(record, event.type)
  return `${headOf(record, seq, event)}${before}${kept.slice(prefix.length)}${after}}`
}

function headOf(
  record: JobRecord,
  seq: number,
  { type, ms, status }: { readonly type: EventType; readonly ms: number; readonly status: JobStatus },
): string {
  return eventText({ ...record, seq, status, updatedAt: ms }, type, '').slice(0, -1)
}

/** What of an event's data stands before and after the part that is kept. */
function surroundings(record: JobRecord, type: EventType): readonly [string, string] {
  if (type === 'job.queued') return [jobText(isAsQueued(record) ? record : asQueued(record)), '']
  if (!isTerminal(type.slice('job.'.length) as JobStatus)) return ['', '']
  const text = jobText(record)
  const result = text.indexOf('"result":null') + '"result":'.length
  return [text.slice(0, result), text.slice(result + 'null'.length)]
}

function isAsQueued({ status, seq }: JobRecord): boolean {
  return status === 'queued' && seq === 1
}

function asQueued(record: JobRecord): JobRecord {
  const nothing = { progress: null, error: null, startedAt: null, finishedAt: null, expiresAt: null }
  return { ...record, ...nothing, status: 'queued', step: 0, attempt: 0, seq: 1 }
}
