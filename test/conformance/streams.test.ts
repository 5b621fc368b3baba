import t from 'tap'
import { startGateway } from '../gateway.ts'
import {
  all,
  ended,
  eventsIn,
  exchange,
  get,
  isProblem,
  leadWorker,
  parse,
  piecesOf,
  submit,
} from './clients.ts'

const gateway = await startGateway(t, {
  echo: { steps: ['echo'], attempts: 1 },
  held: { steps: ['held'], attempts: 1 },
  chatty: { steps: ['chatty'], attempts: 1, journal_limit: 10 },
})
await gateway.work('echo', async (job) => job.data as unknown)
const held = await leadWorker(gateway, 'held')

async function echoed(input: unknown) {
  const job = await submit(gateway, { type: 'echo', input })
  await ended(gateway, job.job_id)
  return job
}

t.test(
  'SSE is a retry, then id, event and data of each event, and ends after the terminal one',
  async (t) => {
    const { links } = await echoed('gr\u00fc\u00dfe \u2028 \ud83d\ude80 \\n')
    const texts = await all(eventsIn(await get(gateway, links.events, { accept: 'application/x-ndjson' })))
    const response = await get(gateway, links.events, { accept: 'text/event-stream' })
    t.equal(response.status, 200)
    t.match(response.headers.get('content-type'), /^text\/event-stream/)
    t.equal(response.headers.get('cache-control'), 'no-store, no-transform')
    t.equal(response.headers.get('x-accel-buffering'), 'no')
    t.equal(response.headers.get('vary'), 'accept')
    const [retry, ...blocks] = await all(piecesOf(response, '\n\n'))
    t.equal(retry, 'retry: 2000')
    t.equal(blocks.length, 3)
    for (const [index, block] of blocks.entries()) {
      const text = texts[index] ?? ''
      const { seq, type } = parse(text)
      t.equal(seq, index + 1)
      t.same(block.split('\n').toSorted(), [`data: ${text}`, `event: ${type}`, `id: ${seq}`])
    }
  },
)

t.test('NDJSON is one event a line', async (t) => {
  const { links, job_id: id } = await echoed({ text: 'a\nb' })
  const response = await get(gateway, links.events, { accept: 'application/x-ndjson' })
  t.equal(response.status, 200)
  t.match(response.headers.get('content-type'), /^application\/x-ndjson/)
  t.equal(response.headers.get('cache-control'), 'no-store, no-transform')
  t.equal(response.headers.get('x-accel-buffering'), 'no')
  const lines = (await response.text()).split('\n')
  t.equal(lines.pop(), '')
  t.match(lines.map(parse), [
    { seq: 1, job_id: id, type: 'job.queued' },
    { seq: 2, job_id: id, type: 'step.started' },
    { seq: 3, job_id: id, type: 'job.completed', data: { result: { text: 'a\nb' } } },
  ])
})

t.test('JSON is a page of the journal, at once', async (t) => {
  const { links } = await submit(gateway, { type: 'held' })
  const attempt = await held.next()
  await attempt.job.updateProgress(50)
  await get(gateway, `${links.self}?after=2`, { prefer: 'wait=20' })
  const page = async (query: string) => {
    const response = await get(gateway, links.events + query, { accept: 'application/json' })
    t.equal(response.status, 200)
    t.match(response.headers.get('content-type'), /^application\/json/)
    t.equal(response.headers.get('vary'), 'accept')
    return response.text()
  }
  const stream = eventsIn(await get(gateway, links.events))
  const [one, two, three] = [await stream.next(), await stream.next(), await stream.next()].map(
    ({ value }) => value as string,
  )

  t.equal(await page(''), `{"events":[${one},${two},${three}],"seq":3,"truncated":false}`)
  t.equal(await page('?limit=2'), `{"events":[${one},${two}],"seq":2,"truncated":false}`)
  t.equal(await page('?after=2&limit=2'), `{"events":[${three}],"seq":3,"truncated":false}`)
  t.equal(await page('?after=3'), '{"events":[],"seq":3,"truncated":false}')
  attempt.complete()
  const { value: last } = (await stream.next()) as { value: string }
  t.equal(await page('?after=3&limit=1000'), `{"events":[${last}],"seq":4,"truncated":false}`)
  t.equal(await page('?after=4'), '{"events":[],"seq":4,"truncated":false}', 'also after the end')
  t.ok((await stream.next()).done)
})

t.test('the representation is the one that Accept prefers, SSE when it does not care', async (t) => {
  const { links } = await echoed(1)
  const preferences = {
    '*/*': 'text/event-stream',
    'text/*': 'text/event-stream',
    'application/*': 'application/x-ndjson',
    'application/json': 'application/json',
    'application/json, application/x-ndjson': 'application/json',
    'application/x-ndjson, application/json': 'application/x-ndjson',
    'text/event-stream;q=0.3, application/x-ndjson;q=0.2': 'text/event-stream',
    'text/event-stream;q=0.2, application/x-ndjson;q=0.3': 'application/x-ndjson',
    'application/json, */*;q=0.1': 'application/json',
    'text/event-stream;q=0, */*': 'application/x-ndjson',
  }
  for (const [accept, expected] of Object.entries(preferences)) {
    const response = await get(gateway, links.events, { accept })
    t.equal(response.headers.get('content-type')?.split(';')[0], expected, accept)
    await response.text()
  }
  const bare = await exchange(
    gateway.url,
    `GET ${links.events} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n`,
  )
  t.match(bare, /^HTTP\/1\.1 200 /)
  t.match(bare, /\r\ncontent-type: text\/event-stream/)
  for (const accept of ['text/html', 'application/xml', 'image/png, text/event-stream;q=0'])
    await isProblem(t, await get(gateway, links.events, { accept }), 'not_acceptable')
})

t.test('Last-Event-ID, or after, is where a stream goes on; the header is the newer one', async (t) => {
  const { links } = await echoed(1)
  const seqs = async (query: string, headers: Record<string, string> = {}) =>
    (await all(eventsIn(await get(gateway, links.events + query, headers)))).map((text) => parse(text).seq)
  t.same(await seqs(''), [1, 2, 3])
  t.same(await seqs('?after=0'), [1, 2, 3])
  t.same(await seqs('?after=1'), [2, 3])
  t.same(await seqs('?after=2', { accept: 'application/x-ndjson' }), [3])
  t.same(await seqs('', { 'last-event-id': '1' }), [2, 3])
  t.same(await seqs('?after=0', { 'last-event-id': '2' }), [3])
  t.same(await seqs('?after=2', { 'last-event-id': '0' }), [1, 2, 3])
  t.same(await seqs('?after=2', { 'last-event-id': '' }), [3])
})

t.test('at or past the end of a job that has ended there is nothing: 204', async (t) => {
  const { links } = await echoed(1)
  for (const accept of ['text/event-stream', 'application/x-ndjson']) {
    for (const [query, header] of [
      ['?after=3', ''],
      ['', '3'],
      ['?after=99', ''],
    ] as const) {
      const response = await get(gateway, links.events + query, { accept, 'last-event-id': header })
      t.equal(response.status, 204)
      t.equal(await response.text(), '')
    }
  }
})

t.test('ahead of a journal that goes on there is no place to resume from', async (t) => {
  const { links } = await submit(gateway, { type: 'held' })
  const attempt = await held.next()
  await get(gateway, `${links.self}?after=1`, { prefer: 'wait=20' })
  await isProblem(t, await get(gateway, `${links.events}?after=3`), 'bad_cursor')
  await isProblem(t, await get(gateway, links.events, { 'last-event-id': '99' }), 'bad_cursor')
  const stream = get(gateway, `${links.events}?after=2`)
  attempt.complete()
  t.same(
    (await all(eventsIn(await stream))).map((text) => parse(text).seq),
    [3],
  )
})

t.test('a stream brings what was first and then what happens; who comes late gets the same', async (t) => {
  const { links } = await submit(gateway, { type: 'held' })
  const early = eventsIn(await get(gateway, links.events))
  const texts = [(await early.next()).value as string]
  const attempt = await held.next()
  texts.push((await early.next()).value as string)
  for (const percent of [10, 20, 30]) {
    await attempt.job.updateProgress(percent)
    const { value } = (await early.next()) as { value: string }
    t.match(parse(value), { type: 'job.progress', data: { percent } })
    texts.push(value)
  }
  const middle = eventsIn(await get(gateway, `${links.events}?after=3`))
  attempt.complete()
  texts.push(...(await all(early)))
  t.same(
    texts.map((text) => parse(text).seq),
    [1, 2, 3, 4, 5, 6],
  )
  t.same(await all(middle), texts.slice(3))
  t.same(await all(eventsIn(await get(gateway, links.events))), texts)
})

t.test('trimmed events are replaced by one snapshot of the job', async (t) => {
  await gateway.work('chatty', async (job) => {
    for (let n = 1; n <= 30; n++) await job.updateProgress({ output: n })
    return 'done'
  })
  const { links, job_id: id } = await submit(gateway, { type: 'chatty' })
  await ended(gateway, id)
  const job = (await (await get(gateway, links.self)).json()) as Record<string, unknown>
  t.equal(job['seq'], 33)

  const texts = await all(eventsIn(await get(gateway, links.events, { accept: 'application/x-ndjson' })))
  const [snapshot, ...rest] = texts.map(parse)
  t.same(snapshot, {
    seq: 23,
    type: 'job.snapshot',
    timestamp: snapshot?.timestamp,
    job_id: id,
    status: 'completed',
    data: job,
    truncated: true,
  })
  t.same(
    rest.map(({ seq }) => seq),
    [24, 25, 26, 27, 28, 29, 30, 31, 32, 33],
  )
  t.ok(rest.every((event) => !('truncated' in event)))
  t.same(await all(eventsIn(await get(gateway, `${links.events}?after=22`))), texts, 'as SSE')
  t.same(await all(eventsIn(await get(gateway, `${links.events}?after=23`))), texts.slice(1))

  const page = async (query: string) =>
    (await get(gateway, links.events + query, { accept: 'application/json' })).text()
  t.equal(await page(''), `{"events":[${texts.join(',')}],"seq":33,"truncated":true}`)
  t.equal(await page('?limit=1'), `{"events":[${texts[0]},${texts[1]}],"seq":24,"truncated":true}`)
  t.equal(await page('?after=32'), `{"events":[${texts[10]}],"seq":33,"truncated":false}`)
})
