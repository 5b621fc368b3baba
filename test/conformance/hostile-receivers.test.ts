import { readFileSync } from 'node:fs'
import t, { type Test } from 'tap'
import { startGateway } from '../gateway.ts'
import { findFreePort, startRedis } from '../helper.ts'
import { faults, marker, startGoodReceiver, type Fault, type HostileReceiver } from '../hostile-receivers.ts'
import { get, submit } from './clients.ts'
import {
  deliveriesOf,
  deliveryWhen,
  endOfDelivery,
  isListed,
  redeliver,
  type DeliveryObject,
} from './delivery-calls.ts'

/*
 * What becomes of a try at each of the hostile receivers, as clients see it; docs/WEBHOOKS.md has the table. Some take
 * the whole 15 seconds, so all have their first try at the same time, of one gateway.
 */

const STEP_MS = 8_000
const PEACE_MS = 60_000
const HEALTHY_JOBS = 20

const types = { idle: { steps: ['idle'] } }
const gateway = await startGateway(t, types, { env: { QUARTET_CALLBACK_SCHEDULE: `${STEP_MS}ms,1h` } })
const table = readTable()

const submitTo = async (url: string) =>
  (await submit(gateway, { type: 'idle', callback_url: url, callback_events: ['job.queued'] })).job_id

interface Begun {
  readonly does: string
  readonly outcome: object
  readonly receiver: HostileReceiver
  readonly id: string
}

const receivers: Record<string, Fault> = {
  ...faults,
  'does not listen': {
    start: async () => {
      const url = `http://127.0.0.1:${await findFreePort()}/hook`
      return { url, connections: () => 0, requests: () => 0, left: () => Promise.resolve() }
    },
    outcome: { status: 'failed', reason: 'network', error: /ECONNREFUSED/ },
  },
}
const begun = await Promise.all(
  Object.entries(receivers).map(async ([does, { start, outcome }]): Promise<Begun> => {
    const receiver = await start(t)
    return { does, outcome, receiver, id: await submitTo(receiver.url) }
  }),
)

t.test('meanwhile a healthy receiver gets everything', async (t) => {
  const receiver = await startGoodReceiver(t)
  const ids = await Promise.all(Array.from({ length: HEALTHY_JOBS }, () => submitTo(receiver.url)))
  for (const id of ids) {
    t.match(await endOfDelivery(gateway, id, 1), { status: 'delivered', tries: { length: 1 } })
  }
  t.equal(receiver.requests(), HEALTHY_JOBS)
  const hanging = begun.find(({ does }) => does === 'hangs before the headers')
  t.match(
    (await deliveriesOf(gateway, hanging?.id ?? '')).deliveries,
    [{ tries: [] }],
    'nobody was waited for',
  )
})

/** All are asked about from now on: what is tried again soon is to be seen before. */
const seen = begun.map(async ({ outcome, receiver, id }) => {
  const delivery = await deliveryWhen(gateway, id, 1, ({ tries }) => tries.length === 1, 250)
  return { outcome, id, delivery, requests: receiver.requests() }
})
for (const [index, { does }] of begun.entries()) {
  t.test(`a try at a receiver that ${does} is recorded as such`, async (t) => {
    const { outcome, id, delivery, requests } = (await seen[index])!
    isRecorded(t, delivery, outcome as Ending)
    t.ok(requests <= 1, 'it was asked once')
    t.notMatch(await (await get(gateway, `/jobs/${id}/deliveries`)).text(), marker)
    t.ok(table.get(recordOf(delivery))?.includes(does), `the page says ${recordOf(delivery)}`)
  })
}

t.test('an address that may no longer be reached when its turn comes is given up at once', async (t) => {
  const redis = await startRedis(t)
  const front = await startGateway(t, types, { redis, env: { QUARTET_ROLES: 'http,collect' } })
  const strict = {
    QUARTET_ROLES: 'callbacks',
    QUARTET_CALLBACK_ALLOW: '',
    QUARTET_WEBHOOK_SECRET: front.secret,
  }
  await startGateway(t, types, { redis, env: strict })
  const receiver = await startGoodReceiver(t)
  const job = { type: 'idle', callback_url: receiver.url, callback_events: ['job.queued'] }
  const { job_id: id } = await submit(front, job)
  const delivery = await endOfDelivery(front, id, 1)
  t.match(delivery, {
    status: 'dead',
    next_try_at: null,
    tries: [{ outcome: 'dead', reason: 'blocked', status_code: null, error: String }],
  })
  t.equal(delivery.tries.length, 1)
  t.ok(await isListed(front, id, 1))
  t.equal((await redeliver(front, id, 1)).status, 202)
  const again = await deliveryWhen(
    front,
    id,
    1,
    (found) => found.status === 'dead' && found.tries.length === 2,
  )
  t.match(again.tries[1], { outcome: 'dead', reason: 'blocked', redelivery: true }, 'also by hand')
  t.equal(receiver.connections(), 0)
  t.strictSame(table.get(recordOf(delivery)), ['leads to an address that may not be reached'])
})

t.test('the page names nothing else', async (t) => {
  const named = [...table].flatMap(([record, receivers]) => (record === 'failed, proxy' ? [] : receivers))
  const tried = [...Object.keys(receivers), 'leads to an address that may not be reached']
  t.strictSame(named.toSorted(), tried.toSorted())
})

interface Ending {
  status: string
  statusCode?: number
  reason?: string
  error?: string | RegExp
  retryAfterMs?: number
}

/** Compares what is shown with how the one try ended. */
function isRecorded(t: Test, delivery: DeliveryObject, ending: Ending): void {
  const { status, next_try_at: next, tries } = delivery
  const { reason = null, error = null, retryAfterMs } = ending
  const [made] = tries
  const isAnswered = 'statusCode' in ending || reason === 'http_status'
  t.match(made, { status_code: isAnswered ? (ending.statusCode ?? Number) : null, error, redelivery: false })
  if (ending.status !== 'failed') {
    const isGone = ending.status === 'gone'
    t.match({ status, next }, { status: isGone ? 'dead' : 'delivered', next: null })
    t.match(made, { outcome: isGone ? 'dead' : 'delivered', reason: isGone ? 'gone' : null })
    return
  }
  t.equal(status, 'pending')
  t.match(made, { outcome: 'failed', reason })
  const wait = Date.parse(next ?? '') - Date.parse(made?.at ?? '') - (made?.duration_ms ?? 0)
  if (reason === 'timeout' || made?.status_code === 429) t.equal(wait, PEACE_MS, 'a minute at least')
  else if (retryAfterMs !== undefined) t.equal(wait, retryAfterMs, 'as it asked')
  else t.ok(wait >= 0.8 * STEP_MS && wait <= 1.2 * STEP_MS, `${wait} ms, the step ± 20 %`)
}

/** How the page names what was recorded: the outcome, and the reason if there is one. */
function recordOf({ tries: [made] }: DeliveryObject): string {
  return [made?.outcome, made?.reason].filter(Boolean).join(', ')
}

/** What receivers do, by what is recorded of it: docs/WEBHOOKS.md "What becomes of a try". */
function readTable(): Map<string, string[]> {
  const page = readFileSync('docs/WEBHOOKS.md', 'utf8')
  const [, section = ''] = page.split('\n## What becomes of a try\n')
  const rows = [...(section.split('\n## ')[0] ?? '').matchAll(/^\| (`.*?) \| (.*?) \|/gm)]
  return new Map(
    rows.map(([, record = '', receivers = '']) => [record.replaceAll('`', ''), receivers.split('; ')]),
  )
}
