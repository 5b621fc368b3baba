import { EVENTS_LIMIT } from '../deliver/events.ts'
import { ndjson } from '../deliver/ndjson.ts'
import { sse } from '../deliver/sse.ts'
import type { StreamFormat } from '../deliver/stream.ts'
import { toEvent, type EventType } from '../messages.ts'
import { events, eventTexts } from './examples.ts'
import { json, ref, type Answer, type Operation } from './operation.ts'
import { after, cursor, limitOf } from './parameters.ts'

const story: readonly EventType[] = ['job.queued', 'step.started', 'job.progress', 'job.completed']

const written = ({ preamble, encode }: StreamFormat): string =>
  preamble + story.map((type) => encode(toEvent(eventTexts[type])).toString()).join('')

/** The two that go on until the job has ended. */
export const streams: NonNullable<Answer['content']> = {
  'text/event-stream': {
    schema: {
      type: 'string',
      description: 'Each `data` is an event on one line, `id` its seq, `event` its type.',
    },
    itemSchema: ref('Event'),
    examples: { story: written(sse) },
  },
  'application/x-ndjson': {
    schema: { type: 'string', description: 'An event a line.' },
    itemSchema: ref('Event'),
    examples: { story: written(ndjson) },
  },
}

export const eventOperations: Readonly<Record<string, Operation>> = {
  'GET /jobs/:id/events': {
    id: 'getEvents',
    tag: 'events',
    summary: 'Follow a job, or read its journal',
    description:
      'From the cursor on, in what `Accept` prefers: a stream of server-sent events (also without `Accept`), the same as ' +
      'NDJSON, or as JSON a page at once.',
    query: {
      after,
      limit: { ...limitOf(EVENTS_LIMIT), description: 'How many events a page has at most.' },
    },
    headers: { 'Last-Event-ID': cursor },
    answers: {
      200: {
        description: 'The events.',
        headers: ['Vary'],
        mayHave: ['Cache-Control', 'X-Accel-Buffering'],
        content: {
          ...streams,
          ...json(ref('EventPage'), {
            page: { events: [events['step.started'], events['job.progress']], seq: 7, truncated: false },
            trimmed: { events: [events['job.snapshot'], events['step.started']], seq: 6, truncated: true },
          }),
        },
      },
      204: {
        description: 'The job has ended and has nothing after the cursor, which stops an EventSource.',
        headers: ['Vary'],
        mayHave: ['Cache-Control'],
      },
    },
    problems: ['bad_cursor', 'not_found', 'not_acceptable', 'too_many_streams'],
  },

  'GET /ws': {
    id: 'openSocket',
    tag: 'events',
    summary: 'Open a WebSocket for many jobs',
    description: 'With the subprotocol `quartet.v1`. Its messages are in [asyncapi.json](asyncapi.json).',
    answers: { 101: { description: 'The socket is open: `init` is the first message.' } },
    problems: ['upgrade_required'],
  },
}
