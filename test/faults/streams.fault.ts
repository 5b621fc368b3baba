import t from 'tap'
import { startGatewayProcess, submit } from '../e2e/processes.ts'
import { all, isTerminal, ndjson, seqOf, sse, websocket, type Mode } from '../e2e/modes.ts'
import { startRedis } from '../helper.ts'
import { times } from './report.ts'

const modes: readonly Mode[] = [sse, ndjson, websocket]

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
  const transcripts = await Promise.all(
    Array.from({ length: clients }, async (_, index) => {
      const id = ids[index % ids.length] ?? ''
      const seen: string[] = []
      for await (const text of ndjson(leaving.url, id, 0)) {
        seen.push(text)
        if (seen.length === 1 && ++open === clients) {
          since = Date.now()
          leaving.child.kill('SIGTERM')
        }
      }
      if (!seen.some(isTerminal)) seen.push(...(await all(ndjson(staying.url, id, seen.length))))
      return { id, seen }
    }),
  )
  t.same(await leaving.exited, { code: 0, signal: null })
  const journals = new Map(
    await Promise.all(ids.map(async (id) => [id, await all(ndjson(staying.url, id, 0))] as const)),
  )
  const faulty = transcripts.filter(({ id, seen }) => String(seen) !== String(journals.get(id)))
  t.comment(
    `SIGTERM: ${clients} streams, 50 jobs, ${faulty.length} with a gap or repeat · ${Date.now() - since} ms in all`,
  )
  t.equal(faulty.length, 0)
})
