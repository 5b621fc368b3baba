import t from 'tap'
import { startGatewayProcess, submit } from '../e2e/processes.ts'
import { all, isTerminal, ndjson, seqOf, sse, websocket, type Mode } from '../e2e/modes.ts'
import { startRedis } from '../helper.ts'
import { overNdjson, overSse, overWebSocket } from './listeners.ts'
import { times } from './report.ts'

const modes: readonly Mode[] = [sse, ndjson, websocket]
const followers = [overSse, overNdjson, overWebSocket]

t.test('clients that follow while live channels are cut again and again miss nothing', async (t) => {
  const redis = await startRedis(t)
  const gateway = await startGatewayProcess(t, { redis })
  const client = redis.connect()
  const id = await submit(gateway.url, { type: 'countdown', input: { from: 100, interval_ms: 40 } })
  let ended = false
  const following = Promise.all(
    Array.from({ length: 200 }, (_, index) => all((modes[index % modes.length] ?? sse)(gateway.url, id, 0))),
  ).finally(() => (ended = true))
  let cuts = 0
  // Each new event is an occasion to cut: followers are then between events, in the middle of one, or reading again.
  for await (const text of ndjson(gateway.url, id, 0)) {
    if (seqOf(text) % 5 !== 0) continue
    cuts += Number(await client.call('CLIENT', 'KILL', 'TYPE', 'pubsub'))
  }
  const transcripts = await following
  t.ok(ended)
  const whole = await all(ndjson(gateway.url, id, 0))
  const faulty = transcripts.filter((each) => String(each) !== String(whole))
  t.comment(
    `live channel cut: ${transcripts.length} clients, ${cuts} cuts, ${faulty.length} with a gap or repeat`,
  )
  t.ok(cuts >= 10)
  t.equal(faulty.length, 0)
})

t.test('SIGTERM with many open streams and jobs under way ends in 10 s and loses nothing', async (t) => {
  const redis = await startRedis(t)
  const leaving = await startGatewayProcess(t, { redis, roles: 'http,collect' })
  const staying = await startGatewayProcess(t, { redis, roles: 'http,collect,workers' })
  const ids = await Promise.all(
    Array.from({ length: 50 }, () =>
      submit(leaving.url, { type: 'countdown', input: { from: 60, interval_ms: 200 } }),
    ),
  )
  const clients = times(1_000, 300)
  let open = 0
  let since = 0
  const exited = leaving.exited.then((how) => ({ how, ms: Date.now() - since }))
  const transcripts = await Promise.all(
    Array.from({ length: clients }, async (_, index) => {
      const id = ids[index % ids.length] ?? ''
      let isOpen = false
      const heard = await (followers[index % followers.length] ?? overSse)(leaving.url, id, () => {
        if (isOpen) return
        isOpen = true
        if (++open < clients) return
        since = Date.now()
        leaving.child.kill('SIGTERM')
      })
      const rest = heard.events.some(isTerminal)
        ? []
        : await all(ndjson(staying.url, id, heard.events.length))
      return { id, heard, seen: [...heard.events, ...rest] }
    }),
  )
  const { how, ms } = await exited
  t.same(how, { code: 0, signal: null })
  t.ok(ms < 10_000, 'the bound of a rolling restart')
  const journals = new Map(
    await Promise.all(ids.map(async (id) => [id, await all(ndjson(staying.url, id, 0))] as const)),
  )
  const faulty = transcripts.filter(({ id, seen }) => String(seen) !== String(journals.get(id)))
  // Whose job had ended by then needs no advice.
  const left = transcripts.map(({ heard }) => heard).filter(({ events }) => !events.some(isTerminal))
  const waits = left
    .filter(({ retriesMs }) => retriesMs.length > 0)
    .map(({ retriesMs }) => retriesMs.at(-1) ?? 0)
  t.comment(
    `SIGTERM: ${clients} streams and sockets, 50 jobs, ${faulty.length} with a gap or repeat · gone after ${ms} ms · ` +
      `told to come back after ${Math.min(...waits)} to ${Math.max(...waits)} ms`,
  )
  t.equal(faulty.length, 0)
  t.ok(waits.length > clients / 6, 'streams were cut short')
  t.ok(waits.every((wait) => wait >= 500 && wait < 5_000))
  const perHalfSecond = Array.from(
    { length: 10 },
    (_, n) => waits.filter((each) => Math.floor(each / 500) === n).length,
  )
  t.ok(
    perHalfSecond.slice(1).every((many) => many > 0 && many < waits.length / 3),
    'in each half second some, and in none a herd',
  )
  t.same(new Set(left.map(({ code }) => code)), new Set([null, 4503]))
})
