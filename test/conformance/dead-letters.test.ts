import t from 'tap'
import { startGateway } from '../gateway.ts'
import { get, isInvalid, isoTime, isProblem, putCallback, startReceiver, submit } from './clients.ts'
import {
  answersWith,
  deadLetters,
  deliveryWhen,
  endOfDelivery,
  isListed,
  redeliver,
  redeliverAll,
  type DeadLetterObject,
} from './delivery-calls.ts'

const gateway = await startGateway(t, { idle: { steps: ['idle'] } })

const submitTo = async (url: string) =>
  (await submit(gateway, { type: 'idle', callback_url: url, callback_events: ['job.queued'] })).job_id

/** Has so many events die at a receiver that answers 410. @returns their jobs */
async function loseTo(url: string, count: number): Promise<string[]> {
  const ids = await Promise.all(Array.from({ length: count }, () => submitTo(url)))
  await Promise.all(ids.map((id) => endOfDelivery(gateway, id, 1)))
  return ids
}

const idsOf = (letters: readonly DeadLetterObject[]) => letters.map(({ job_id: id }) => id)

t.test('without dead letters the list is empty', async (t) => {
  t.strictSame(await deadLetters(gateway), { deliveries: [], next_page_token: null })
})

t.test('dead letters are listed, newest first, by origin and by time', async (t) => {
  const one = await startReceiver(t, answersWith(410))
  const other = await startReceiver(t, answersWith(410))
  const ids: string[] = []
  for (const { url } of [one, other, one]) ids.unshift(...(await loseTo(url, 1)))
  const [newest = '', , oldest = ''] = ids
  const origin = new URL(one.url).origin

  const { deliveries, next_page_token: next } = await deadLetters(gateway)
  t.equal(next, null)
  t.strictSame(idsOf(deliveries), ids)
  t.matchOnlyStrict(deliveries[0], {
    job_id: newest,
    seq: 1,
    webhook_id: `${newest}.1`,
    status: 'dead',
    origin,
    died_at: isoTime,
  })
  const times = deliveries.map(({ died_at: at }) => at)
  t.strictSame(times, times.toSorted().toReversed())

  t.strictSame(idsOf((await deadLetters(gateway, { origin })).deliveries), [newest, oldest])
  t.strictSame((await deadLetters(gateway, { origin: 'https://example.com' })).deliveries, [])
  const [since = ''] = times
  t.strictSame(idsOf((await deadLetters(gateway, { since })).deliveries), [newest], 'and those of that time')
  const later = new Date(Date.parse(since) + 1).toISOString()
  t.strictSame((await deadLetters(gateway, { since: later })).deliveries, [])
  t.strictSame((await deadLetters(gateway, { since: later.replace('Z', '+00:00') })).deliveries, [])
})

t.test('page by page each is listed once, however many died in the same millisecond', async (t) => {
  const count = 40
  const held: (() => void)[] = []
  const receiver = await startReceiver(t, (response) => {
    held.push(() => response.writeHead(410).end())
    if (held.length === count) for (const answer of held) answer()
  })
  const other = await startReceiver(t, answersWith(410))
  const ids = await loseTo(receiver.url, count)
  await loseTo(other.url, 1)
  const origin = new URL(receiver.url).origin
  for (const limit of ['1', '7', '40', '200']) {
    const listed: DeadLetterObject[] = []
    for (let token: string | null = ''; token !== null;) {
      const page = await deadLetters(gateway, { origin, limit, ...(token && { page_token: token }) })
      t.ok(page.deliveries.length <= Number(limit))
      listed.push(...page.deliveries)
      token = page.next_page_token
    }
    t.strictSame(idsOf(listed).toSorted(), ids.toSorted(), `${limit} at a time`)
    t.ok(new Set(listed.map(({ died_at: at }) => at)).size < count, 'some died at the same time')
  }
})

t.test('a dead letter goes to the return address that the job has by now', async (t) => {
  const old = await startReceiver(t, answersWith(410))
  const id = await submitTo(old.url)
  await endOfDelivery(gateway, id, 1)
  const receiver = await startReceiver(t)
  const put = await putCallback(gateway, id, {
    callback_url: receiver.url,
    callback_events: ['*'],
    after: 1,
  })
  t.equal(put.status, 200)
  t.equal((await redeliver(gateway, id, 1)).status, 202)
  t.equal((await receiver.next()).headers['webhook-id'], `${id}.1`)
  t.match(await endOfDelivery(gateway, id, 1), { status: 'delivered' })
  await old.next()
  t.ok(old.isQuiet())
})

t.test('an event that a new return address has got is no dead letter any more', async (t) => {
  const old = await startReceiver(t, answersWith(410))
  const id = await submitTo(old.url)
  await endOfDelivery(gateway, id, 1)
  const receiver = await startReceiver(t)
  await putCallback(gateway, id, { callback_url: receiver.url, callback_events: ['job.queued'] })
  t.match(await deliveryWhen(gateway, id, 1, ({ status }) => status === 'delivered'), { tries: [{}, {}] })
  t.notOk(await isListed(gateway, id, 1))
})

t.test('an event that a new return address has not got is dead, though the old one has', async (t) => {
  const old = await startReceiver(t)
  const id = await submitTo(old.url)
  await endOfDelivery(gateway, id, 1)
  const receiver = await startReceiver(t, answersWith(410))
  await putCallback(gateway, id, { callback_url: receiver.url, callback_events: ['job.queued'] })
  t.match(await deliveryWhen(gateway, id, 1, ({ status }) => status === 'dead'), { tries: [{}, {}] })
  t.ok(await isListed(gateway, id, 1))
})

t.test('all dead letters of an origin that died since a time are redelivered, and no others', async (t) => {
  const answer = answersWith(410)
  const receiver = await startReceiver(t, answer)
  const other = await startReceiver(t, answersWith(410))
  const lose = async (url: string) => (await loseTo(url, 1))[0] ?? ''
  const early = await lose(receiver.url)
  const late = [await lose(receiver.url), await lose(receiver.url)]
  const another = await lose(other.url)
  const { deliveries } = await deadLetters(gateway)
  const since = deliveries.find(({ job_id: id }) => id === late[0])?.died_at

  answer.status = 204
  const origin = new URL(receiver.url).origin
  const all = async (body: object) => {
    const response = await redeliverAll(gateway, body)
    t.equal(response.status, 202)
    return response.json()
  }
  t.strictSame(await all({ origin, since }), { redelivered: 2 })
  for (const id of late) t.match(await endOfDelivery(gateway, id, 1), { status: 'delivered' })
  t.match(await endOfDelivery(gateway, early, 1), { status: 'dead', tries: { length: 1 } })
  t.strictSame(await all({ origin }), { redelivered: 1 })
  t.match(await endOfDelivery(gateway, early, 1), { status: 'delivered' })
  t.strictSame(await all({ origin }), { redelivered: 0 })
  t.match(await endOfDelivery(gateway, another, 1), { status: 'dead', tries: { length: 1 } })
  t.ok(await isListed(gateway, another, 1))
})

t.test('what cannot be listed is a malformed request', async (t) => {
  for (const query of [
    '',
    'status=pending',
    'status=dead&limit=0',
    'status=dead&limit=201',
    'status=dead&limit=many',
    'status=dead&page_token=next',
    'status=dead&page_token=',
    'status=dead&origin=example.com',
    'status=dead&origin=https://example.com/hook',
    'status=dead&origin=',
    'status=dead&since=yesterday',
    'status=dead&since=2026',
    'status=dead&since=1',
    'status=dead&since=',
    'status=dead&status=dead',
    'status=dead&since=2026-01-31T12:00:00Z&since=2026-01-31T12:00:00Z',
    'status=dead&origin=https://a.example&origin=https://b.example',
    'status=dead&page_token=1.1&page_token=1.1',
  ]) {
    await isProblem(t, await get(gateway, `/deliveries?${query}`), 'malformed_request')
  }
})

t.test('what cannot be redelivered all at once is refused', async (t) => {
  await isInvalid(t, await redeliverAll(gateway, {}), ['/origin'])
  await isInvalid(t, await redeliverAll(gateway, { origin: 7, since: 'yesterday' }), ['/origin', '/since'])
  await isInvalid(t, await redeliverAll(gateway, { origin: 'https://example.com', until: 1 }), ['/until'])
  const response = await redeliverAll(gateway, { origin: 'https://example.com/hook' })
  await isProblem(t, response, 'malformed_request')
})
