import { UnrecoverableError, type Job } from 'bullmq'
import * as fc from 'fast-check'
import t from 'tap'
import { WebSocket } from 'ws'
import { eventTypes } from '../../src/messages.ts'
import { jsonText } from './arbitraries.ts'
import { INJECTED, texts, utf8 } from './corpus.ts'
import { fuzz, inputsFor, judge, startFuzzedGateway } from './fuzzed-gateway.ts'
import { createSender, headerOf, type RawAnswer } from './raw-http.ts'

/** Jobs at a time, and hostile values of each: input, metadata, progress, what is written past BullMQ, the end, headers. */
const CROWD = 20
const VALUES = 6

const { gateway, redis, authorization, work, end } = await startFuzzedGateway(t)
const sender = createSender(gateway.url)
t.teardown(() => sender.close())
const foreign = redis.connect()
let inputs = 0

/** What a worker is to do with its job: all of it comes back in events. */
interface Task {
  readonly text: string
  readonly json: unknown
  /** What somebody who is no BullMQ writes into its event stream as the job's progress; one character a byte. */
  readonly raw: string
  readonly fails: boolean
}

interface Attack {
  readonly task: Task
  readonly metadata: string
  readonly header: string
}

await work('echo', async (job: Job<Task>) => {
  const { text, json, raw, fails } = job.data
  await job.updateProgress({ message: text, output: json })
  await job.updateProgress(text)
  const entry = ['event', 'progress', 'jobId', job.id ?? '', 'data', Buffer.from(raw, 'latin1')]
  await foreign.call('XADD', 'bull:echo:events', '*', ...entry)
  if (fails) throw new UnrecoverableError(text)
  return { text, json }
})

const text = fc.oneof(fc.constantFrom(...texts), fc.string({ unit: 'binary', maxLength: 30 }))
const attack = fc.record<Attack>({
  task: fc.record<Task>({
    text,
    json: fc.oneof(text, fc.jsonValue({ maxDepth: 2 })),
    raw: fc.oneof(
      jsonText,
      fc.constantFrom('\xff\r\n\r\nid: 99', '"\xed\xa0\x80"', '{"percent":\n\r50}', '"\u0085\xe2\x80\xa8"'),
    ),
    fails: fc.boolean(),
  }),
  metadata: text,
  header: text.map((text) => utf8(text).replace(/[^\t\x20-\x7e\x80-\xff]/g, `: 1 ${INJECTED}: 1`)),
})

/** Reads a stream as browsers do: https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation */
function readEvents(stream: string): { id: string; type: string; data: string }[] {
  const events: { id: string; type: string; data: string }[] = []
  let id = ''
  let type = ''
  let data: string[] = []
  for (const line of stream.replace(/^\ufeff/, '').split(/\r\n|\r|\n/)) {
    if (line === '') {
      if (data.length > 0) events.push({ id, type: type || 'message', data: data.join('\n') })
      type = ''
      data = []
      continue
    }
    const [, field = '', value = ''] = /^([^:]*)(?:: ?(.*))?$/s.exec(line) ?? []
    if (field === 'event') type = value
    if (field === 'data') data.push(value)
    if (field === 'id' && !value.includes('\0')) id = value
  }
  return events
}

const decode = ({ body }: RawAnswer): string => Buffer.from(body, 'latin1').toString()

async function call(
  method: string,
  target: string,
  body: string | null,
  headers: Record<string, string>,
): Promise<RawAnswer> {
  const all = { host: 'x', authorization, 'content-type': 'application/json', ...headers }
  const answer = await sender.send({ method, target, headers: Object.entries(all), body })
  judge(answer)
  return answer
}

/**
 * The same journal in five ways: 1..n and of the known types, whatever is in it.
 *
 * @returns false where it was refused
 */
async function tellFiveWays({ task, metadata, header }: Attack): Promise<boolean> {
  inputs += VALUES
  const body = utf8(
    JSON.stringify({
      type: 'echo',
      input: task,
      metadata: { [metadata.slice(0, 20) || 'm']: metadata.slice(0, 512) },
    }),
  )
  const live = await call('POST', '/jobs', body, {
    accept: 'text/event-stream',
    'x-request-id': header,
    'x-correlation-id': header,
  })
  if (live.status !== 200) return false
  const location = headerOf(live, 'location') ?? ''
  const [again, lines, page, followed] = await Promise.all([
    call('GET', `${location}/events`, null, { accept: 'text/event-stream' }),
    call('GET', `${location}/events`, null, { accept: 'application/x-ndjson' }),
    call('GET', `${location}/events?limit=1000`, null, { accept: 'application/json' }),
    subscribe(location.slice('/jobs/'.length)),
  ])
  const journal = decode(lines)
    .split('\n')
    .filter((line) => line !== '')
  const expected = journal.map((line, index) => {
    const { seq, type } = JSON.parse(line) as { seq: number; type: (typeof eventTypes)[number] }
    if (seq !== index + 1 || !eventTypes.includes(type))
      throw new Error(`Expected event ${index + 1}, got ${line}`)
    return { id: String(seq), type, data: line }
  })
  const read = JSON.stringify(expected)
  for (const stream of [live, again]) {
    const got = JSON.stringify(readEvents(decode(stream)))
    if (got !== read) throw new Error(`Expected ${read}, got ${got}`)
  }
  const { events } = JSON.parse(decode(page)) as { events: unknown[] }
  const parsed = JSON.stringify(journal.map((line) => JSON.parse(line) as unknown))
  if (JSON.stringify(events) !== parsed) throw new Error(`Expected ${parsed}, got ${JSON.stringify(events)}`)
  if (JSON.stringify(followed) !== JSON.stringify(journal))
    throw new Error(`Expected ${read}, got ${JSON.stringify(followed)}`)
  const last = journal.at(-1) ?? ''
  // Queued, started, told three times, over.
  if (!/"type":"job\.(completed|failed)"/.test(last) || journal.length !== 6) {
    throw new Error(`Expected six events to the end, got ${read}`)
  }
  const { data } = JSON.parse(journal[2] ?? '') as { data: { message: string } }
  if (data.message !== task.text) throw new Error(`Expected the worker's own words, got ${data.message}`)
  return true
}

/** @returns the envelopes that a WebSocket brings, as they came */
async function subscribe(id: string): Promise<string[]> {
  const socket = new WebSocket(`${gateway.url.replace('http', 'ws')}/ws`, 'quartet.v1', {
    headers: { authorization },
  })
  return new Promise((resolve, reject) => {
    const envelopes: string[] = []
    socket.on('error', reject).on('close', () => reject(new Error('Expected an end first')))
    socket.on('message', (data: Buffer) => {
      const text = data.toString()
      const { op } = JSON.parse(text) as { op: string }
      if (op === 'ready') socket.send(JSON.stringify({ op: 'subscribe', ref: 1, job_id: id }))
      if (op === 'event') envelopes.push(text.slice('{"op":"event","event":'.length, -1))
      if (op !== 'end') return
      resolve(envelopes)
      socket.close()
    })
    socket.on('open', () => socket.send('{"op":"init"}'))
  })
}

t.test('whatever workers and clients write, no event is forged, and each mode tells the same', async (t) => {
  const size = { inputs: inputsFor('events') / VALUES, crowd: CROWD }
  let told = 0
  await fuzz(attack, size, async (attacks) => {
    await Promise.all(
      attacks.map(async (each) => {
        try {
          if (await tellFiveWays(each)) told++
        } catch (error) {
          throw new Error(`${(error as Error).message} after ${JSON.stringify(each)}`, { cause: error })
        }
      }),
    )
  })
  t.ok(inputs >= inputsFor('events'), `${inputs} values`)
  // Names like __proto__ in it are refused.
  t.ok(told > (0.9 * inputs) / VALUES, `and ${told} jobs told of them in five ways`)
})

t.test('and nothing of it is news to the gateway', () => end())
