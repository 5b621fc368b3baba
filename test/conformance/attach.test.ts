import t, { type Test } from 'tap'
import { startGateway } from '../gateway.ts'
import {
  createInbox,
  ended,
  eventsIn,
  get,
  jobIn,
  parse,
  putCallback,
  startReceiver,
  submit,
  type Delivered,
} from './clients.ts'
import { deliveriesOf, deliveryWhen, endOfDelivery, holdsAnswers } from './delivery-calls.ts'

/** Seven events: accepted, and of each step its start and its end. */
const LAST = 7
const steps = ['pick', 'pack', 'ship']
const gateway = await startGateway(t, {
  free: { steps, attempts: 1 },
  held: { steps: ['pick', 'hold', 'ship'], attempts: 1 },
})
for (const step of steps) await gateway.work(step, async () => null, { concurrency: 10 })
/** By job: what its second step, which number 4 of its events begins, waits for. */
const gates = new Map<string, ReturnType<typeof createInbox<true>>>()
await gateway.work('hold', ({ id = '' }) => gateOf(id).next(), { concurrency: 100 })

function gateOf(id: string) {
  const gate = gates.get(id) ?? createInbox<true>()
  gates.set(id, gate)
  return gate
}

/** A receiver that knows what has come for each job. */
async function startLedger(t: Test) {
  const came = new Map<string, number[]>()
  const receiver = await startReceiver(t, (response, { body }: Delivered) => {
    const { job_id: id, seq } = parse(body)
    came.set(id, [...(came.get(id) ?? []), seq])
    response.writeHead(204).end()
  })
  return { url: receiver.url, cameFor: (id: string) => came.get(id) ?? [] }
}

const rangeAfter = (seq: number) => Array.from({ length: LAST - seq }, (_, index) => seq + 1 + index)

/** Reads a job's events up to one, by a stream or by polling. */
async function readUpTo(id: string, seq: number, mode: 'stream' | 'poll'): Promise<void> {
  if (seq === 0) return
  if (mode === 'poll') {
    for (let last = 0; last < seq;) {
      last = (await jobIn(await get(gateway, `/jobs/${id}?after=${last}`, { prefer: 'wait=20' }))).seq
    }
    return
  }
  const stream = await get(gateway, `/jobs/${id}/events`, { accept: 'application/x-ndjson' })
  for await (const text of eventsIn(stream)) if (parse(text).seq === seq) return
}

const attach = (id: string, url: string, after: number) =>
  putCallback(gateway, id, { callback_url: url, callback_events: ['*'], after })

/** What the job is doing when it is given its return address, and up to where its events can have been read. */
const moments = [
  { type: 'free', when: 'while its steps follow each other', isEnded: false, last: LAST },
  { type: 'held', when: 'while a worker has it', isEnded: false, last: 4 },
  { type: 'free', when: 'after its end', isEnded: true, last: LAST },
]
for (const { type, when, isEnded, last } of moments) {
  t.test(`who gives a job a return address ${when} gets what it has not read, in order, once`, async (t) => {
    const { url, cameFor } = await startLedger(t)
    const cases = (['stream', 'poll'] as const).flatMap((mode) =>
      Array.from({ length: last + 1 }, (_, after) => ({ mode, after })),
    )
    await Promise.all(
      cases.map(async ({ mode, after }) => {
        const { job_id: id } = await submit(gateway, { type })
        if (isEnded) await ended(gateway, id)
        await readUpTo(id, after, mode)
        if (type === 'held') await readUpTo(id, 4, mode)
        t.equal((await attach(id, url, after)).status, 200)
        gateOf(id).push(true)
        await ended(gateway, id)
        if (after < LAST) await endOfDelivery(gateway, id, LAST)
        const { deliveries } = await deliveriesOf(gateway, id)
        t.match(
          deliveries,
          rangeAfter(after).map((seq) => ({ seq, status: 'delivered', tries: { length: 1 } })),
        )
        t.same(cameFor(id), rangeAfter(after), `after ${after} by ${mode}`)
      }),
    )
  })
}

t.test('of two return addresses in a row the second gets everything', async (t) => {
  const [first, second] = [await startLedger(t), await startLedger(t)]
  await Promise.all(
    Array.from({ length: 10 }, async () => {
      const { job_id: id } = await submit(gateway, { type: 'free' })
      await attach(id, first.url, 0)
      await attach(id, second.url, 0)
      await endOfDelivery(gateway, id, LAST)
      t.same(second.cameFor(id), rangeAfter(0))
      const early = first.cameFor(id)
      t.same(early, rangeAfter(0).slice(0, early.length), 'the first has got a beginning, if anything')
    }),
  )
})

t.test('of return addresses that are given at the same time one gets everything', async (t) => {
  const ledgers = await Promise.all([1, 2, 3].map(() => startLedger(t)))
  await Promise.all(
    Array.from({ length: 10 }, async () => {
      const { job_id: id } = await submit(gateway, { type: 'free' })
      await Promise.all(ledgers.map(({ url }) => attach(id, url, 0)))
      await ended(gateway, id)
      await endOfDelivery(gateway, id, LAST)
      const { origin } = await deliveriesOf(gateway, id)
      const winner = ledgers.find(({ url }) => new URL(url).origin === origin)
      t.same(winner?.cameFor(id), rangeAfter(0))
      for (const { cameFor } of ledgers) {
        const early = cameFor(id)
        t.same(early, rangeAfter(0).slice(0, early.length))
      }
    }),
  )
})

for (const late of [204, 500, 410]) {
  t.test(
    `a try at the old address that hangs is not waited for, and its ${late} changes nothing`,
    async (t) => {
      const answers = holdsAnswers()
      const old = await startReceiver(t, answers)
      const { job_id: id } = await submit(gateway, {
        type: 'held',
        callback_url: old.url,
        callback_events: ['*'],
      })
      const answer = await answers.next()
      await readUpTo(id, 4, 'poll')
      const { url, cameFor } = await startLedger(t)
      t.equal((await attach(id, url, 0)).status, 200)
      await endOfDelivery(gateway, id, 2)
      answer(late)
      await deliveryWhen(gateway, id, 1, ({ tries }) => tries.length === 2)
      gateOf(id).push(true)
      await endOfDelivery(gateway, id, LAST)
      const { gone, deliveries } = await deliveriesOf(gateway, id)
      t.equal(gone, false)
      t.match(
        deliveries,
        rangeAfter(0).map((seq) => ({ seq, status: 'delivered' })),
      )
      t.same(cameFor(id), rangeAfter(0))
      await old.next()
      t.ok(old.isQuiet())
    },
  )
}
