import { problemObject, type ProblemObject } from './errors.ts'
import { readFailure } from './failure.ts'
import { eventText, jobText, oneLine } from './job.ts'
import { isTerminal, type EventType, type JobRecord, type TerminalStatus } from './messages.ts'
import type { Change, Stored } from './store/store.ts'

/**
 * What can happen to a job. The first group is told by the result queue of a step (`queue` names it), the second is
 * decided by the gateway itself.
 */
export type Outcome =
  | { readonly kind: 'started'; readonly queue: string }
  | { readonly kind: 'progress'; readonly queue: string; readonly data: string }
  | { readonly kind: 'retrying'; readonly queue: string; readonly reason: string; readonly delayMs: number }
  | { readonly kind: 'completed'; readonly queue: string; readonly result: string }
  | { readonly kind: 'failed'; readonly queue: string; readonly reason: string }
  /** Progress, or a result, that is larger than it may be. */
  | { readonly kind: 'omitted'; readonly queue: string; readonly bytes: number }
  | { readonly kind: 'oversized'; readonly queue: string; readonly bytes: number; readonly most: number }
  | { readonly kind: 'removed'; readonly queue: string }
  | { readonly kind: 'end_requested'; readonly ending: 'canceled' | 'expired' }
  | { readonly kind: 'canceling' }
  | { readonly kind: 'ended'; readonly ending: 'canceled' | 'expired' }
  | { readonly kind: 'lost'; readonly detail: string }

/** What is left to do once a change is in the store. The watchdog does it again if a crash swallows it. */
export interface FollowUp {
  /** Hand the input that waits in the store to the step that the job is now at. */
  enqueue: boolean
  /** Take the job out of this queue: it has ended, and a further attempt must not begin. */
  removeFrom: string | null
}

/** A job being changed: what was read, what it is by now, and the events that tell how. */
export interface Draft {
  readonly version: number
  /** The draft's own: what others know of the job stays as it is. */
  readonly record: { -readonly [Field in keyof JobRecord]: JobRecord[Field] }
  readonly events: string[]
  /** The input for the current step: undefined leaves what is stored, null drops it, text replaces it. */
  input: string | null | undefined
  touched: boolean
  readonly followUp: FollowUp
}

export function draftOf({ record, version }: Stored): Draft {
  return {
    version,
    record: { ...record },
    events: [],
    input: undefined,
    touched: false,
    followUp: { enqueue: false, removeFrom: null },
  }
}

export function changeOf({ version, record, events, input }: Draft): Change {
  return { version, record, events, ...(input !== undefined && { input }) }
}

/**
 * Applies one outcome to a draft: the state machine of a job, and the only place that has one. An outcome that no
 * longer concerns the job (it has ended, it is at another step) changes nothing, so a repetition is harmless.
 *
 * @param at milliseconds since the epoch: when it happened, by Redis's clock for what the result queue told
 */
export function advance(draft: Draft, outcome: Outcome, at: number): void {
  const { record } = draft
  if (isTerminal(record.status)) {
    // It ended under a worker: the attempt that is over now was the last.
    if (outcome.kind === 'retrying') draft.followUp.removeFrom = outcome.queue
    return
  }
  if ('queue' in outcome && outcome.queue !== record.route[record.step]) return
  set(draft, { updatedAt: Math.max(at, record.updatedAt) }, false)

  switch (outcome.kind) {
    case 'started':
      return start(draft)
    case 'progress':
      return report(draft, outcome.data)
    case 'retrying':
      return retry(draft, outcome.reason, outcome.delayMs)
    case 'completed':
      return complete(draft, oneLine(outcome.result))
    case 'failed':
      return fail(draft, stepFailure(outcome.reason))
    case 'omitted':
      return emit(draft, 'job.progress', `{"omitted_bytes":${outcome.bytes}}`)
    case 'oversized':
      return fail(
        draft,
        problemObject('result_too_large', `Expected at most ${outcome.most} bytes, got ${outcome.bytes}`),
      )
    case 'removed':
      return record.ending ? endAs(draft, record.ending) : end(draft, 'failed', problemObject('job_removed'))
    case 'end_requested':
      return record.ending ? undefined : set(draft, { ending: outcome.ending })
    case 'canceling':
      if (record.status === 'canceling') return
      set(draft, { status: 'canceling', ending: 'canceled' })
      return emit(draft, 'job.canceling', '{}')
    case 'ended':
      return endAs(draft, outcome.ending)
    case 'lost':
      return end(draft, 'failed', problemObject('job_lost', outcome.detail))
  }
}

function start(draft: Draft): void {
  const { status, attempt, updatedAt, startedAt } = draft.record
  set(draft, {
    status: status === 'queued' ? 'running' : status,
    attempt: attempt + 1,
    active: true,
    progress: null,
    startedAt: startedAt ?? updatedAt,
  })
  draft.input = null
  emit(draft, 'step.started', JSON.stringify({ ...stepOf(draft.record), attempt: attempt + 1 }))
}

function report(draft: Draft, data: string): void {
  const { text, percent, message } = toProgress(data)
  const known = draft.record.progress
  const progress = {
    ...known,
    ...(percent !== undefined && { percent }),
    ...(message !== undefined && { message }),
  }
  set(draft, { progress: Object.keys(progress).length > 0 ? progress : null })
  emit(draft, 'job.progress', text)
}

/** A delay before the first attempt is no retry; nor is anything that BullMQ says of a job no worker had. */
function retry(draft: Draft, reason: string, delayMs: number): void {
  const { active, attempt, ending, route, step } = draft.record
  if (!active) return
  set(draft, { active: false })
  if (ending) {
    draft.followUp.removeFrom = route[step] ?? null
    return endAs(draft, ending)
  }
  const { detail } = readFailure(reason)
  const data = {
    ...stepOf(draft.record),
    attempt,
    reason: detail,
    delay_ms: Math.max(0, Math.round(delayMs)),
  }
  emit(draft, 'step.retrying', JSON.stringify(data))
}

function complete(draft: Draft, result: string): void {
  const { route, step, ending } = draft.record
  if (step === route.length - 1) return end(draft, 'completed', null, result)
  set(draft, { active: false })
  emit(draft, 'step.completed', JSON.stringify(stepOf(draft.record)))
  if (ending) return endAs(draft, ending)
  set(draft, { step: step + 1, attempt: 0, progress: null })
  draft.input = result
  draft.followUp.enqueue = true
}

function fail(draft: Draft, { problem, ...error }: ProblemObject): void {
  const { attempt, ending } = draft.record
  if (ending === 'canceled') return end(draft, 'canceled', null)
  end(draft, 'failed', {
    ...error,
    ...stepOf(draft.record),
    attempts: attempt,
    ...(problem && { problem }),
  })
}

function stepFailure(reason: string): ProblemObject {
  const { detail, problem } = readFailure(reason)
  return { ...problemObject('step_failed', detail), ...(problem && { problem }) }
}

function endAs(draft: Draft, ending: 'canceled' | 'expired'): void {
  end(draft, ending, ending === 'expired' ? problemObject('deadline_exceeded') : null)
}

function end(draft: Draft, status: TerminalStatus, error: ProblemObject | null, result?: string): void {
  const { updatedAt, retentionMs } = draft.record
  set(draft, { status, error, active: false, finishedAt: updatedAt, expiresAt: updatedAt + retentionMs })
  draft.input = null
  draft.followUp.enqueue = false
  // The job in a terminal event shows the event's own seq, so the number is taken first.
  const numbered = { ...draft.record, seq: draft.record.seq + 1 }
  emit(draft, `job.${status}`, jobText(numbered, result))
}

function emit(draft: Draft, type: EventType, data: string): void {
  set(draft, { seq: draft.record.seq + 1 })
  draft.events.push(eventText(draft.record, type, data))
}

function set(draft: Draft, fields: Partial<JobRecord>, touched = true): void {
  Object.assign(draft.record, fields)
  draft.touched ||= touched
}

function stepOf({ route, step }: JobRecord): { step: string; index: number } {
  return { step: route[step] ?? '', index: step }
}

/**
 * Reads what a worker gave to `updateProgress`. Text that already has the contract's shape passes as it came; a bare
 * number is a percentage; anything else is a piece of output.
 */
function toProgress(data: string): { text: string; percent?: number; message?: string } {
  const text = oneLine(data)
  const value = parsed(text)
  if (value === undefined) return { text: `{"output":${JSON.stringify(text)}}` }
  if (isPercent(value)) return { text: `{"percent":${text}}`, percent: value }
  if (!isProgress(value)) return { text: `{"output":${text}}` }
  return { ...value, text }
}

/** BullMQ writes JSON; a client in another language that wrote something else must not stop the queue. */
function parsed(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}

function isPercent(value: unknown): value is number {
  return typeof value === 'number' && value >= 0 && value <= 100
}

function isProgress(value: unknown): value is { percent?: number; message?: string } {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return false
  const keys = Object.keys(value)
  const { percent, message } = value as Record<string, unknown>
  return (
    keys.length > 0 &&
    keys.every((key) => key === 'percent' || key === 'message' || key === 'output') &&
    (percent === undefined || isPercent(percent)) &&
    (message === undefined || typeof message === 'string')
  )
}
