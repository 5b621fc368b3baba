import type { Redis } from 'ioredis'
import t from 'tap'
import { startGateway } from '../gateway.ts'
import {
  all,
  cancel,
  ended,
  eventsIn,
  get,
  isoTime,
  isProblem,
  jobIn,
  leadWorker,
  submit,
  type JobObject,
} from './clients.ts'

const gateway = await startGateway(t, {
  echo: { steps: ['echo'], attempts: 1 },
  idle: { steps: ['idle'] },
  held: { steps: ['held'], attempts: 1 },
  foreign: { steps: ['foreign', 'after-foreign'], attempts: 1 },
})
await gateway.work('echo', async (job) => job.data as unknown)
const held = await leadWorker(gateway, 'held')

t.test('a job is shown in every status, with an ETag that is its seq', async (t) => {
  const { job_id: id, links } = await submit(gateway, { type: 'held' })
  const attempt = await held.next()
  await attempt.job.updateProgress({ percent: 40, message: 'charging' })
  const running = await get(gateway, `${links.self}?after=2`, { prefer: 'wait=20' })
  t.equal(running.status, 200)
  t.equal(running.headers.get('etag'), '"3"')
  t.equal(running.headers.get('retry-after'), '1')
  t.match(await jobIn(running), {
    status: 'running',
    step: { name: 'held', index: 0, count: 1, attempt: 1 },
    progress: { percent: 40, message: 'charging' },
    seq: 3,
    started_at: isoTime,
    finished_at: null,
  })
  attempt.fail('no such card')
  await ended(gateway, id)
  const failed = await get(gateway, links.self)
  t.equal(failed.status, 200)
  t.equal(failed.headers.get('etag'), '"4"')
  t.notOk(failed.headers.has('retry-after'))
  t.match(await jobIn(failed), {
    status: 'failed',
    result: null,
    error: {
      type: 'urn:quartet:problem:step_failed',
      title: 'A step failed',
      status: 500,
      code: 'step_failed',
      detail: 'no such card',
      step: 'held',
      index: 0,
      attempts: 1,
    },
    finished_at: isoTime,
  })
})

t.test('If-None-Match with the present ETag is answered with 304, whatever form it has', async (t) => {
  const { links } = await submit(gateway, { type: 'idle' })
  for (const known of ['"1"', 'W/"1"', '"7", "1"', '*']) {
    const response = await get(gateway, links.self, { 'if-none-match': known })
    t.equal(response.status, 304, known)
    t.equal(response.headers.get('etag'), '"1"')
    t.equal(await response.text(), '')
  }
  for (const other of ['"2"', '"11"', '1', ''])
    t.equal((await get(gateway, links.self, { 'if-none-match': other })).status, 200, other)
})

t.test('HEAD is answered wherever GET is, but for the events, and at once', async (t) => {
  const { links } = await submit(gateway, { type: 'idle' })
  const head = (path: string) => fetch(gateway.url + path, { method: 'HEAD' })
  const response = await head(links.self)
  t.equal(response.status, 200)
  t.equal(response.headers.get('etag'), '"1"')
  t.equal(await response.text(), '')
  t.equal((await head(`${links.self}/result`)).status, 404)
  for (const path of ['/jobs', '/livez', '/readyz']) t.equal((await head(path)).status, 200)
  const events = await head(links.events)
  t.equal(events.status, 404)
  t.match(events.headers.get('content-type'), /^application\/problem\+json/)
})

t.test('a long poll is answered as soon as the seq exceeds after', async (t) => {
  const { links } = await submit(gateway, { type: 'held' })
  const attempt = await held.next()
  await get(gateway, `${links.self}?after=1`, { prefer: 'wait=20' })

  const answer = get(gateway, `${links.self}?after=2`, { prefer: 'wait=50' })
  await attempt.job.updateProgress(10)
  const moved = await answer
  t.equal(moved.headers.get('preference-applied'), 'wait=50')
  t.equal(moved.headers.get('etag'), '"3"')
  t.match(await jobIn(moved), { seq: 3, progress: { percent: 10 } })

  const behind = await get(gateway, `${links.self}?after=1`, { prefer: 'wait=50' })
  t.equal((await jobIn(behind)).seq, 3, 'at once when the job is past it')

  const last = get(gateway, `${links.self}?after=3`, { prefer: 'wait=90' })
  attempt.complete()
  const done = await last
  t.equal(done.headers.get('preference-applied'), 'wait=60')
  t.match(await jobIn(done), { status: 'completed', seq: 4 })

  const ahead = await get(gateway, `${links.self}?after=4`, { prefer: 'wait=50' })
  t.match(await jobIn(ahead), { status: 'completed' }, 'at once when the job has ended')
})

t.test(
  'a long poll without after waits for the next event, and shows the same job when time is up',
  async (t) => {
    const { links } = await submit(gateway, { type: 'idle' })
    const startedAt = Date.now()
    const same = await get(gateway, links.self, { prefer: 'wait=1' })
    t.ok(Date.now() - startedAt >= 900, 'it was held')
    t.equal(same.status, 200)
    t.equal(same.headers.get('preference-applied'), 'wait=1')
    t.equal((await jobIn(same)).seq, 1)

    const unchanged = await get(gateway, links.self, { prefer: 'wait=1', 'if-none-match': '"1"' })
    t.equal(unchanged.status, 304)
  },
)

t.test('without Prefer, after has no effect', async (t) => {
  const { links } = await submit(gateway, { type: 'idle' })
  const response = await get(gateway, `${links.self}?after=99`)
  t.equal(response.status, 200)
  t.notOk(response.headers.has('preference-applied'))
})

t.test('the result is 404 until there is one, and then the bare result', async (t) => {
  const { job_id: id, links } = await submit(gateway, { type: 'held' })
  const attempt = await held.next()
  const early = await get(gateway, `${links.self}/result`)
  t.equal(early.headers.get('retry-after'), '1')
  await isProblem(t, early, 'no_result_yet')
  attempt.complete({ a: ['gr\u00fc\u00dfe'] })
  await ended(gateway, id)
  const result = await get(gateway, `${links.self}/result`)
  t.equal(result.status, 200)
  t.match(result.headers.get('content-type'), /^application\/json/)
  t.equal(await result.text(), '{"a":["gr\u00fc\u00dfe"]}')
})

t.test('a job that ended without a result has none: 410', async (t) => {
  const failing = await submit(gateway, { type: 'held' })
  const attempt = await held.next()
  attempt.fail('broken')
  await ended(gateway, failing.job_id)
  const canceled = await submit(gateway, { type: 'idle' })
  await cancel(gateway, canceled.job_id)
  for (const { links } of [failing, canceled])
    await isProblem(t, await get(gateway, `${links.self}/result`), 'no_result')
})

t.test('results and outputs are the bytes that a worker in any language wrote', async (t) => {
  const output = '{"n":12345678901234567890,"f":1.10,\r\n "e":1E400,"e":-0.0}'
  const result = '[\n  0.30000000000000004440892098500626,\n  {"b":1,"a":2}\n]'
  const oneLine = (json: string) => json.replace(/[\r\n]+/g, ' ')
  const connection = writesRaw(gateway.redis.connect({ maxRetriesPerRequest: null }))
  await gateway.work(
    'foreign',
    async (job) => {
      await job.updateProgress(raw(output))
      return raw(result)
    },
    { connection },
  )
  const last = await leadWorker(gateway, 'after-foreign', { connection })
  const { job_id: id, links } = await submit(gateway, { type: 'foreign' })
  const attempt = await last.next()
  const given = await gateway.redis.connect().hget(`bull:after-foreign:${id}`, 'data')
  t.equal(given, oneLine(result), 'the next step gets it as it is')
  attempt.complete(raw(result))

  const texts = await all(eventsIn(await get(gateway, links.events)))
  t.match(texts[2], `"data":{"output":${oneLine(output)}}}`)
  t.match(texts.at(-1), `"result":${oneLine(result)},"error":null`)
  t.match(await (await get(gateway, links.self)).text(), `"result":${oneLine(result)},"error":null`)
  t.equal(await (await get(gateway, `${links.self}/result`)).text(), oneLine(result))
})

t.test('the jobs are listed newest first, by status and type, page by page', async (t) => {
  const gateway = await startGateway(t, { echo: { steps: ['echo'] }, idle: { steps: ['idle'] } })
  await gateway.work('echo', async () => null)
  const jobs: JobObject[] = []
  for (const type of ['idle', 'echo', 'idle', 'idle', 'echo']) jobs.push(await submit(gateway, { type }))
  const newest = jobs.toReversed().map((job) => job.job_id)
  for (const job of jobs.filter(({ type }) => type === 'echo')) await ended(gateway, job.job_id)
  const list = async (query: string) => {
    const response = await get(gateway, `/jobs${query}`)
    t.equal(response.status, 200)
    return (await response.json()) as { jobs: JobObject[]; next_page_token: string | null }
  }
  const ids = async (query: string) => (await list(query)).jobs.map((job) => job.job_id)

  t.same(await ids(''), newest)
  t.same(await list('?limit=200'), { jobs: (await list('')).jobs, next_page_token: null })
  t.same(await ids('?type=echo'), [newest[0], newest[3]])
  t.same(await ids('?status=completed'), [newest[0], newest[3]])
  t.same(await ids('?status=queued&type=idle&limit=2'), [newest[1], newest[2]])
  t.same(await ids('?status=queued&type=echo'), [])
  t.same(await ids('?type=nothing'), [])
  const [first] = (await list('?type=echo')).jobs
  t.same(first, await jobIn(await get(gateway, `/jobs/${newest[0]}`)), 'each as GET shows it')

  for (const [query, expected] of [
    ['?limit=2', newest],
    ['?limit=1&status=queued', [newest[1], newest[2], newest[4]]],
  ] as const) {
    const found: string[] = []
    for (let token: string | null = ''; token !== null;) {
      const page = await list(query + (token && `&page_token=${token}`))
      t.ok(page.jobs.length <= Number(query.charAt(7)))
      found.push(...page.jobs.map((job) => job.job_id))
      token = page.next_page_token
    }
    t.same(found, expected, query)
  }
})

t.test('the process lives and is ready', async (t) => {
  const alive = await get(gateway, '/livez')
  t.equal(alive.status, 200)
  t.same(await alive.json(), { status: 'ok' })
  const ready = await get(gateway, '/readyz')
  t.equal(ready.status, 200)
  t.same(await ready.json(), { status: 'ready' })
})

t.test('what is not there is 404', async (t) => {
  await isProblem(t, await get(gateway, '/nothing'), 'no_such_route')
  await isProblem(t, await fetch(`${gateway.url}/jobs`, { method: 'DELETE' }), 'no_such_route')
  await isProblem(t, await fetch(`${gateway.url}/livez`, { method: 'POST' }), 'no_such_route')
})

/** What {@link writesRaw} writes as the JSON text that it is. */
const raw = (json: string) => `#${json}#`

/** A worker's connection that writes JSON which JavaScript cannot, as a client in another language would. */
function writesRaw(connection: Redis): Redis {
  const send = connection.sendCommand.bind(connection)
  connection.sendCommand = (command, stream) => {
    command.args = command.args.map((arg) =>
      typeof arg === 'string'
        ? arg.replace(/"#((?:[^"\\]|\\.)*)#"/g, (_, json: string) => JSON.parse(`"${json}"`) as string)
        : arg,
    )
    return send(command, stream)
  }
  return connection
}

t.test(
  'every answer has a request id: the client’s own, if it is fit to be kept, or a new one',
  async (t) => {
    const idOf = async (path: string, headers: Record<string, string> = {}) =>
      (await get(gateway, path, headers)).headers.get('x-request-id') ?? ''
    const made = await Promise.all(['/jobs', '/livez', '/nowhere', '/jobs/x'].map((path) => idOf(path)))
    for (const id of made) t.match(id, /^[0-9a-f-]{36}$/)
    t.equal(new Set(made).size, made.length)
    for (const id of ['req-1', 'a:b_c.D', 'x'.repeat(128)])
      t.equal(await idOf('/jobs', { 'x-request-id': id }), id)
    for (const id of ['', 'a b', 'x'.repeat(129), '{"a":1}', 'é'])
      t.match(await idOf('/jobs', { 'x-request-id': id }), /^[0-9a-f-]{36}$/)
  },
)
