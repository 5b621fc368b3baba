import { Webhook } from 'standardwebhooks'
import t from 'tap'
import { variables } from '../../src/config.ts'
import { parseSchedule } from '../../src/deliver/schedule.ts'
import { startGateway } from '../gateway.ts'
import {
  all,
  createInbox,
  ended,
  eventsIn,
  get,
  isProblem,
  jobIn,
  leadWorker,
  openSocket,
  parse,
  putCallback,
  startReceiver,
  submit,
} from './clients.ts'

const gateway = await startGateway(t, {
  echo: { steps: ['echo'], attempts: 1 },
  idle: { steps: ['idle'] },
  held: { steps: ['held'], attempts: 1 },
  chatty: { steps: ['chatty'], attempts: 1, journal_limit: 10 },
})
await gateway.work('echo', async (job) => job.data as unknown)
const held = await leadWorker(gateway, 'held')
const json = { accept: 'application/json' }

t.test('an event is the same bytes in SSE, NDJSON, a page, a WebSocket frame and a webhook', async (t) => {
  const receiver = await startReceiver(t)
  const socket = await openSocket(t, gateway.url)
  const job = {
    type: 'held',
    input: null,
    metadata: { 'na\u00efve \u2028': '\ud83d\ude80 </script>' },
    callback_url: receiver.url,
    callback_events: ['*'],
  }
  const { job_id: id, links } = await submit(gateway, job)
  const streams = Promise.all(
    ['text/event-stream', 'application/x-ndjson'].map(async (accept) =>
      all(eventsIn(await get(gateway, links.events, { accept }))),
    ),
  )
  socket.send({ op: 'subscribe', ref: 1, job_id: id })
  const attempt = await held.next()
  const delivered = [await receiver.next(), await receiver.next()]
  await attempt.job.updateProgress({ message: '\u00e9\u0301\u2029\u0007"\\', output: [0.1, 1e21, '\ud800'] })
  // The receiver gets the latest progress, so each has to be there before the next is made.
  delivered.push(await receiver.next())
  await attempt.job.updateProgress(50)
  attempt.complete({ text: 'gr\u00fc\u00dfe \ud83d\ude80\r\n', none: null })

  const [bySse = [], byNdjson] = await streams
  t.same(
    bySse.map((text) => parse(text).seq),
    [1, 2, 3, 4, 5],
  )
  t.strictSame(byNdjson, bySse)
  const page = await (await get(gateway, links.events, json)).text()
  t.equal(page, `{"events":[${bySse.join(',')}],"seq":5,"truncated":false}`)
  delivered.push(await receiver.next(), await receiver.next())
  t.strictSame(
    delivered.map(({ body }) => body),
    bySse,
  )
  t.match(await socket.frame(), { op: 'subscribed' })
  for (const text of bySse) {
    t.equal(await socket.next(), `{"op":"event","event":${text}}`)
  }
  t.match(await socket.frame(), { op: 'end' })
})

t.test('a webhook is signed as Standard Webhooks, and names the event', async (t) => {
  const receiver = await startReceiver(t)
  const { job_id: id } = await submit(gateway, { type: 'echo', input: 'hello', callback_url: receiver.url })
  const { headers, body } = await receiver.next()
  t.equal(headers['webhook-id'], `${id}.3`)
  t.match(headers['content-type'], /^application\/json/)
  t.match(headers['webhook-timestamp'], /^\d+$/)
  t.match(headers['webhook-signature'], /^v1,\S+$/)
  const event = new Webhook(gateway.secret).verify(body, headers)
  t.match(event, { seq: 3, type: 'job.completed', job_id: id, data: { result: 'hello' } })
  t.throws(() => new Webhook(gateway.secret).verify(`${body} `, headers))
})

t.test('while the secret is rotated, a webhook has a signature for each', async (t) => {
  const other = `whsec_${Buffer.alloc(32, 7).toString('base64')}`
  const env = { QUARTET_WEBHOOK_SECRET: `${gateway.secret},${other}` }
  const rotating = await startGateway(t, { echo: { steps: ['echo'], attempts: 1 } }, { env })
  await rotating.work('echo', async () => null)
  const receiver = await startReceiver(t)
  await submit(rotating, { type: 'echo', callback_url: receiver.url })
  const { headers, body } = await receiver.next()
  t.match(headers['webhook-signature'], /^v1,\S+ v1,\S+$/)
  for (const secret of [gateway.secret, other]) t.ok(new Webhook(secret).verify(body, headers))
})

t.test(
  'callback_events says what is delivered: the terminal event without it, in order of seq, of progress the latest',
  async (t) => {
    const run = async (events: readonly string[] | undefined) => {
      const receiver = await startReceiver(t)
      const { job_id: id } = await submit(gateway, {
        type: 'held',
        callback_url: receiver.url,
        ...(events && { callback_events: events }),
      })
      const attempt = await held.next()
      for (const percent of [10, 20, 30]) await attempt.job.updateProgress(percent)
      attempt.complete()
      const types: string[] = []
      for (let type = ''; type !== 'job.completed';) {
        const { headers, body } = await receiver.next()
        const event = parse(body)
        t.equal(headers['webhook-id'], `${id}.${event.seq}`)
        types.push(`${event.seq} ${event.type}`)
        type = event.type
      }
      return types
    }
    t.same(await run(undefined), ['6 job.completed'])
    t.same(await run(['job.completed', 'job.failed']), ['6 job.completed'])
    t.same(await run(['job.completed', 'job.queued']), ['1 job.queued', '6 job.completed'])
    const everything = await run(['*'])
    t.match(everything, ['1 job.queued', '2 step.started', /job\.progress/])
    t.same(everything.slice(-2), ['5 job.progress', '6 job.completed'], 'the last progress always comes')
  },
)

t.test(
  'each event waits for the one before, which is tried again under the same id, not too soon',
  async (t) => {
    const answers = createInbox<() => void>()
    let tries = 0
    const receiver = await startReceiver(t, (response) => {
      if (++tries === 1) response.statusCode = 503
      answers.push(() => response.setHeader('retry-after', '7').end())
    })
    const { job_id: id } = await submit(gateway, {
      type: 'echo',
      callback_url: receiver.url,
      callback_events: ['*'],
    })
    await ended(gateway, id)
    const ids: string[] = []
    const times: number[] = []
    const signatures = new Set<string>()
    for (let nth = 1; nth <= 4; nth++) {
      const { headers, body } = await receiver.next()
      times.push(Date.now())
      const answer = await answers.next()
      t.ok(receiver.isQuiet(), 'nothing else is under way')
      t.ok(new Webhook(gateway.secret).verify(body, headers))
      ids.push(headers['webhook-id'] ?? '')
      signatures.add(headers['webhook-signature'] ?? '')
      answer()
    }
    t.same(ids, [`${id}.1`, `${id}.1`, `${id}.2`, `${id}.3`])
    t.equal(signatures.size, 4, 'each try is signed anew')
    const [first = 0, second = 0] = times
    t.ok(second - first >= 6_900, `Expected 7 s of peace, got ${second - first} ms`)
  },
)

t.test('after 410 nothing more comes, until the return address is given again', async (t) => {
  const receiver = await startReceiver(t, (response, { body }) => {
    response.writeHead(parse(body).seq === 1 ? 410 : 204).end()
  })
  const { job_id: id } = await submit(gateway, {
    type: 'held',
    callback_url: receiver.url,
    callback_events: ['*'],
  })
  t.equal((await receiver.next()).headers['webhook-id'], `${id}.1`)
  const attempt = await held.next()
  attempt.complete()
  await ended(gateway, id)
  t.ok(receiver.isQuiet())
  await putCallback(gateway, id, { callback_url: receiver.url, callback_events: ['*'], after: 1 })
  for (const seq of [2, 3]) t.equal((await receiver.next()).headers['webhook-id'], `${id}.${seq}`)
})

t.test('nine tries are made, after waits of up to a day', async (t) => {
  const text = variables.find(({ name }) => name === 'QUARTET_CALLBACK_SCHEDULE')?.default ?? ''
  const seconds = parseSchedule(text).map((ms) => ms / 1_000)
  t.same(seconds, [5, 30, 2 * 60, 10 * 60, 3_600, 3 * 3_600, 8 * 3_600, 24 * 3_600])
})

t.test('a return address that is given in mid flight gets what comes after its cursor', async (t) => {
  const receiver = await startReceiver(t)
  const { job_id: id } = await submit(gateway, { type: 'held' })
  const attempt = await held.next()
  await attempt.job.updateProgress(10)
  await get(gateway, `/jobs/${id}?after=2`, { prefer: 'wait=20' })
  const response = await putCallback(gateway, id, {
    callback_url: receiver.url,
    callback_events: ['*'],
    after: 1,
  })
  t.equal(response.status, 200)
  t.match(await jobIn(response), { job_id: id, status: 'running', seq: 3 })
  for (const seq of [2, 3]) t.equal(parse((await receiver.next()).body).seq, seq)
  attempt.complete()
  t.match(parse((await receiver.next()).body), { seq: 4, type: 'job.completed' })
})

t.test('a return address that is given after the end gets what it asks for of the past', async (t) => {
  const { job_id: id } = await submit(gateway, { type: 'echo', input: 1 })
  await ended(gateway, id)
  const put = async (body: object) => {
    const receiver = await startReceiver(t)
    t.equal((await putCallback(gateway, id, { callback_url: receiver.url, ...body })).status, 200)
    return receiver
  }
  const seqOf = async ({ next }: { next: () => Promise<{ body: string }> }) => parse((await next()).body).seq
  t.equal(await seqOf(await put({})), 3, 'the terminal event')
  const everything = await put({ callback_events: ['*'] })
  t.same([await seqOf(everything), await seqOf(everything), await seqOf(everything)], [1, 2, 3])
  const rest = await put({ callback_events: ['*'], after: 2 })
  t.equal(await seqOf(rest), 3)
  const nothing = await put({ callback_events: ['*'], after: 3 })
  t.equal(await seqOf(await put({ callback_events: ['job.queued'] })), 1)
  t.ok(nothing.isQuiet())
  await isProblem(t, await putCallback(gateway, id, { callback_url: rest.url, after: 4 }), 'bad_cursor')
})

t.test('acceptance is delivered at once, also while the job waits', async (t) => {
  const startedAt = Date.now()
  const receiver = await startReceiver(t)
  const job = { type: 'idle', callback_url: receiver.url, callback_events: ['job.queued'] }
  const { job_id: posted } = await submit(gateway, job)
  t.equal((await receiver.next()).headers['webhook-id'], `${posted}.1`)
  const socket = await openSocket(t, gateway.url)
  socket.send({ op: 'submit', ref: 1, job })
  const { job: submitted } = await socket.frame()
  t.equal((await receiver.next()).headers['webhook-id'], `${submitted?.job_id}.1`)
  t.ok(Date.now() - startedAt < 15_000, 'it did not wait for the next event, or to be repaired')
})

t.test('a new return address voids what is under way to the old one', async (t) => {
  const old = await startReceiver(t, (response) => response.writeHead(500).end())
  const { job_id: id } = await submit(gateway, {
    type: 'idle',
    callback_url: old.url,
    callback_events: ['*'],
  })
  t.equal(parse((await old.next()).body).seq, 1)
  const receiver = await startReceiver(t)
  await putCallback(gateway, id, { callback_url: receiver.url, callback_events: ['*'] })
  t.equal(parse((await receiver.next()).body).seq, 1)
  const { status } = await fetch(`${gateway.url}/jobs/${id}/cancel`, { method: 'POST' })
  t.equal(status, 200)
  t.match(parse((await receiver.next()).body), { seq: 2, type: 'job.canceled' })
  t.ok(old.isQuiet())
})

t.test(
  'a snapshot is no event of the journal: it is not delivered, and what was trimmed is left out',
  async (t) => {
    await gateway.work('chatty', async (job) => {
      for (let n = 1; n <= 30; n++) await job.updateProgress({ output: n })
    })
    const { job_id: id } = await submit(gateway, { type: 'chatty' })
    await ended(gateway, id)
    const receiver = await startReceiver(t)
    await putCallback(gateway, id, { callback_url: receiver.url, callback_events: ['*'] })
    for (const seq of [32, 33]) t.equal(parse((await receiver.next()).body).seq, seq)
  },
)

t.test('the return address itself is not shown', async (t) => {
  const { links } = await submit(gateway, { type: 'idle', callback_url: 'http://127.0.0.1:9/secret-path' })
  t.notMatch(await (await get(gateway, links.self)).text(), 'secret-path')
})
