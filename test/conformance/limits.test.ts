import { connect } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { startGateway } from '../gateway.ts'
import { startKeyedGateway, withKey } from '../keys.ts'
import { cancel, get, isProblem, openSocket, postBatch, submit } from './clients.ts'

/* How much one key may ask for, on all nodes together: docs/PROTOCOL.md "Limits". */

const types = { idle: { steps: ['idle'] } }
const env = {
  QUARTET_RATE_LIMIT: '20/1h',
  QUARTET_MAX_STREAMS_PER_KEY: '2',
  QUARTET_MAX_SOCKETS_PER_KEY: '2',
}
const gateway = await startKeyedGateway(t, types, { env })
const { redis } = gateway
const node = await startGateway(t, types, { redis, env: { QUARTET_AUTH: 'keys', ...env } })

// A connection that fetch has opened and not used would be waited for.
t.teardown(() => node.app.server.closeAllConnections())

/** A client of its own, at both nodes. */
async function newClient() {
  const { key } = await gateway.createKey()
  return { key, here: withKey(gateway, key), there: withKey(node, key) }
}

const remaining = ({ headers }: Response) =>
  Number(/^"default";r=(\d+);t=\d+$/.exec(`${headers.get('ratelimit')}`)?.[1])

async function isRateLimited(t: Test, response: Response) {
  t.equal(response.headers.get('ratelimit-policy'), '"default";q=20;w=3600')
  t.equal(remaining(response), 0)
  const retryAfter = Number(response.headers.get('retry-after'))
  t.ok(retryAfter > 3_500 && retryAfter <= 3_600)
  t.match(await isProblem(t, response, 'rate_limited'), {
    detail: 'Expected at most 20 requests in 3600 s',
    retry_after: retryAfter,
  })
}

t.test(
  'each answer says how many requests are left, and whoever has none left is told when to come',
  async (t) => {
    const { here, there } = await newClient()
    const { links } = await submit(here, { type: 'idle' })
    const answers = [
      await get(there, links.self),
      await get(here, `${links.self}?after=9`, { 'if-none-match': '*' }),
      await get(there, links.events),
      await get(here, '/jobs/none'),
      await here.post({ type: 'no such' }),
      await here.post({ type: 'idle' }, { accept: 'application/x-ndjson' }),
    ]
    t.same(
      answers.map(({ status }) => status),
      [200, 304, 200, 404, 422, 200],
    )
    t.same(answers.map(remaining), [18, 17, 16, 15, 14, 13], 'on both nodes, also of streams and problems')
    for (const { headers, body } of answers) {
      t.equal(headers.get('ratelimit-policy'), '"default";q=20;w=3600')
      t.equal(headers.get('x-ratelimit-limit'), null)
      await body?.cancel()
    }
    while (remaining(await get(here, links.self)) > 0);
    await isRateLimited(t, await get(here, links.self))
    await isRateLimited(t, await get(there, links.self))
    await isRateLimited(t, await there.post({ type: 'idle' }))

    const other = await newClient()
    t.equal(
      remaining(await get(other.here, links.self)),
      19,
      'another key of the same tenant is not affected',
    )
  },
)

t.test('whoever watches the gateway is not counted, nor who was not let in', async (t) => {
  const { here } = await newClient()
  for (let n = 0; n < 30; n++) {
    for (const path of ['/livez', '/readyz', '/metrics', '/nowhere']) {
      const { status, headers } = await get(here, path)
      t.equal(status, path === '/nowhere' ? 404 : 200)
      t.equal(headers.get('ratelimit'), null)
    }
    t.equal((await get(gateway, '/jobs')).status, 401)
  }
  t.equal(remaining(await get(here, '/jobs')), 19)
})

t.test(
  'a request costs one command, and once a key has none left, refusing it costs Redis nothing',
  async (t) => {
    const { here } = await newClient()
    const monitor = await redis.connect().monitor()
    t.teardown(() => monitor.disconnect())
    const commands: string[] = []
    monitor.on('monitor', (_time: string, args: string[]) => commands.push(args.join(' ')))
    const seen = async (text: string) => {
      while (!commands.some((command) => command.includes(text))) await delay(5)
    }
    const client = redis.connect()
    await client.echo('before')
    await seen('before')
    while (remaining(await get(here, '/jobs')) > 0);
    for (let n = 0; n < 10; n++) await isRateLimited(t, await get(here, '/jobs'))
    await client.echo('after')
    await seen('after')
    const counts = commands.filter((command) => /^evalsha .*\{quartet\}:count:/.test(command))
    t.equal(counts.length, 20)
  },
)

t.test('what a key may not do counts as well', async (t) => {
  const here = await gateway.as({ scopes: ['jobs:read'] })
  for (let n = 0; n < 20; n++) {
    const response = await here.post({ type: 'idle' })
    t.equal(remaining(response), 19 - n)
    await isProblem(t, response, 'missing_scope')
  }
  await isRateLimited(t, await here.post({ type: 'idle' }))
})

t.test('a job token counts as the key that it was issued by', async (t) => {
  const { here, there } = await newClient()
  const { links } = await submit(here, { type: 'idle' })
  const { token } = (await (
    await fetch(`${gateway.url}${links.self}/tokens`, { method: 'POST', headers: here.headers })
  ).json()) as { token: string }
  t.equal(remaining(await get(withKey(node, token), links.self)), 17)
  t.equal(remaining(await get(there, links.self)), 16)
})

t.test(
  'each item of a batch is a request: those that are too many are refused, and the others accepted',
  async (t) => {
    const { here } = await newClient()
    const jobs = (count: number) => Array.from({ length: count }, () => ({ type: 'idle' }))
    const first = await postBatch(here, jobs(15))
    t.equal(remaining(first), 5)
    const second = await postBatch(here, jobs(8))
    t.equal(second.status, 200)
    t.equal(remaining(second), 0)
    const { outcomes } = (await second.json()) as {
      outcomes: { status: number; problem?: { retry_after: number } }[]
    }
    t.same(
      outcomes.map(({ status }) => status),
      [202, 202, 202, 202, 202, 429, 429, 429],
    )
    t.ok(outcomes.slice(5).every(({ problem }) => (problem?.retry_after ?? 0) > 3_500))
    await isRateLimited(t, await postBatch(here, jobs(1)))
  },
)

t.test('what a WebSocket asks for counts too, and the socket goes on', async (t) => {
  const { key, here } = await newClient()
  const { job_id: id } = await submit(here, { type: 'idle' })
  const { send, frame } = await openSocket(t, gateway.url, { token: key })
  send({ op: 'submit', ref: 0, job: { type: 'idle' } })
  t.match([await frame(), await frame()], [{ op: 'accepted' }, { op: 'event' }])
  send({ op: 'cancel', ref: 1, job_id: id })
  t.match(await frame(), { op: 'done', ref: 1 })
  t.equal(remaining(await get(here, '/jobs')), 16)
  while (remaining(await get(here, '/jobs')) > 0);
  for (const message of [
    { op: 'submit', job: { type: 'idle', metadata: { never: 'made' } } },
    { op: 'subscribe', job_id: id },
    { op: 'cancel', job_id: id },
  ]) {
    send({ ...message, ref: 2 })
    const { op, ref, problem } = await frame()
    t.match({ op, ref, problem }, { op: 'error', ref: 2, problem: { code: 'rate_limited', status: 429 } })
    t.ok((problem?.retry_after ?? 0) > 3_500)
  }
  send({ op: 'ping' })
  t.match(await frame(), { op: 'pong' })
})

t.test(
  'a key has so many streams on all nodes; others are refused before any job is made, until one is over',
  async (t) => {
    const { here, there } = await newClient()
    const { links, job_id: id } = await submit(here, { type: 'idle' })
    const first = await get(here, links.events)
    const second = await there.post({ type: 'idle' }, { accept: 'text/event-stream' })
    t.same([first.status, second.status], [200, 200])
    const refused = [
      await get(there, links.events),
      await get(there, links.self, { prefer: 'wait=30' }),
      await get(here, links.events, { accept: 'application/x-ndjson' }),
      await here.post({ type: 'idle', metadata: { never: 'made' } }, { accept: 'text/event-stream' }),
    ]
    for (const response of refused) {
      t.equal(response.headers.get('retry-after'), '5')
      t.match(await isProblem(t, response, 'too_many_streams'), { retry_after: 5 })
    }
    t.notMatch(await (await get(here, '/jobs?limit=5')).text(), 'never')
    t.equal(
      (await get(here, links.events, { accept: 'application/json' })).status,
      200,
      'a page is no stream',
    )

    const posted = await there.post({ type: 'idle' }, { prefer: 'wait=30' })
    t.same([posted.status, posted.headers.get('preference-applied')], [202, null])

    await second.body?.cancel()
    const third = await untilAccepted(() => get(there, links.events))
    await cancel(here, id)
    t.match(await Promise.all([first.text(), third.text()]), [/job\.canceled/, /job\.canceled/])
    for (let n = 1; n <= 2; n++) {
      const again = await untilAccepted(() => here.post({ type: 'idle' }, { accept: 'text/event-stream' }))
      t.equal(again.status, 200, 'both are free')
    }
  },
)

t.test(
  'the streams of a gateway that closes, and of clients that hang up at once, are free again',
  async (t) => {
    const another = await startGateway(t, types, { redis, env: { QUARTET_AUTH: 'keys', ...env } })
    const { key, here } = await newClient()
    const { links } = await submit(here, { type: 'idle' })
    const there = withKey(another, key)
    for (let n = 0; n < 2; n++) t.equal((await get(there, links.events)).status, 200)
    t.equal((await get(here, links.events)).status, 429)
    await another.app.close()
    for (let n = 0; n < 2; n++) t.equal((await get(here, links.events)).status, 200)
  },
)

t.test(
  'answers that were asked for one behind the other give their places back with their connection',
  async (t) => {
    const env = { QUARTET_MAX_STREAMS_PER_KEY: '2' }
    const open = await startKeyedGateway(t, types, { env })
    const { key } = await open.createKey()
    const here = withKey(open, key)
    const { links } = await submit(here, { type: 'idle' })
    const client = connect(Number(new URL(open.url).port), '127.0.0.1').on('error', () => undefined)
    t.teardown(() => client.destroy())
    const head = `HTTP/1.1\r\nhost: x\r\nauthorization: Bearer ${key}\r\n`
    client.write(`GET ${links.events} ${head}\r\nGET ${links.self} ${head}prefer: wait=60\r\n\r\n`)
    const store = open.redis.connect()
    for (let places: string[] = []; !places[0]?.startsWith('2 '); await delay(5)) {
      const [name] = await store.keys('*places*')
      if (name !== undefined) places = await store.hvals(name)
    }
    t.equal((await get(here, links.events)).status, 429)
    client.destroy()
    for (let n = 0; n < 2; n++) t.equal((await untilAccepted(() => get(here, links.events))).status, 200)
    open.app.server.closeAllConnections()
  },
)

t.test('a key has so many sockets on all nodes: one more is closed with 4429', async (t) => {
  const { key } = await newClient()
  const first = await openSocket(t, gateway.url, { token: key })
  await openSocket(t, node.url, { token: key })
  const isRefused = async () => {
    const { send, closed } = await openSocket(t, gateway.url, { init: false })
    send({ op: 'init', token: key })
    t.equal(await closed, 4429)
  }
  await isRefused()
  const strange = await openSocket(t, gateway.url, { token: (await newClient()).key })
  strange.socket.terminate()
  first.socket.close()
  await first.closed
  const { send, frame, closed } = await openSocket(t, node.url, { init: false })
  send({ op: 'init', token: key })
  t.match(await Promise.race([frame(), closed]), { op: 'ready' })
  await isRefused()
  const { here } = await newClient()
  t.match(await (await get(here, '/metrics')).text(), 'quartet_limited_total{limit="sockets"} 2')
})

t.test(
  'an address that has brought bad credentials too often is refused for a while, whatever it brings',
  async (t) => {
    const env = {
      QUARTET_AUTH: 'keys',
      QUARTET_FAILED_CREDENTIALS: '3/2s',
      QUARTET_TRUSTED_PROXIES: '127.0.0.1',
    }
    const guarded = await startGateway(t, types, { redis, env })
    const { key } = await gateway.createKey()
    const good = { authorization: `Bearer ${key}` }
    const bad = { authorization: `Bearer ${key.slice(0, -43)}${'A'.repeat(43)}` }
    const from = (address: string, credentials: Record<string, string>) =>
      get(guarded, '/jobs', { 'x-forwarded-for': address, ...credentials })

    t.equal((await from('192.0.2.1', good)).status, 200)
    for (let n = 0; n < 5; n++)
      t.equal((await from('192.0.2.1', {})).status, 401, 'who brings none may go on')
    const answers: Response[] = []
    for (let status = 401; status === 401;) {
      const answer = await from('192.0.2.1', bad)
      answers.push(answer)
      status = answer.status
    }
    t.ok(answers.length >= 4)
    const last = answers.at(-1) as Response
    t.match(last.headers.get('retry-after'), /^[12]$/)
    await isProblem(t, last, 'rate_limited')
    t.equal((await from('192.0.2.1', good)).status, 429)
    const { send, closed } = await openSocket(t, guarded.url, {
      init: false,
      headers: { 'x-forwarded-for': '192.0.2.1' },
    })
    send({ op: 'init', token: key })
    t.equal(await closed, 4429)
    t.equal((await from('192.0.2.2', good)).status, 200, 'other addresses are let in')
    t.equal((await untilAccepted(() => from('192.0.2.1', good))).status, 200)
  },
)

t.test('where everybody is let in an address counts, as a trusted proxy says it', async (t) => {
  const open = await startGateway(t, types, {
    redis,
    env: { QUARTET_RATE_LIMIT: '3/2s', QUARTET_TRUSTED_PROXIES: '127.0.0.1' },
  })
  const from = (address: string) => get(open, '/jobs', { 'x-forwarded-for': address })
  const left = async (address: string) => remaining(await from(address))
  t.same([await left('192.0.2.1'), await left('192.0.2.1'), await left('192.0.2.2')], [2, 1, 2])
  t.same(
    [await left('2001:db8::1'), await left('2001:db8::2'), await left('2001:db8:0:1::1')],
    [2, 1, 2],
    'of IPv6 the /64',
  )

  const untrusting = await startGateway(t, types, { redis, env: { QUARTET_RATE_LIMIT: '3/1h' } })
  const claimed = (address: string) => get(untrusting, '/jobs', { 'x-forwarded-for': address })
  t.same(
    [remaining(await claimed('192.0.2.1')), remaining(await claimed('192.0.2.2'))],
    [2, 1],
    'anybody else may say what he likes',
  )

  let status = 0
  do status = (await from('192.0.2.1')).status
  while (status === 200)
  t.equal(status, 429)
  await untilAccepted(() => from('192.0.2.1'))
  t.pass('until the window is over')

  await redis.stop()
  while ((await from('192.0.2.1')).status !== 503) await delay(10)
  await isProblem(t, await from('192.0.2.3'), 'store_unavailable')
  t.equal((await get(open, '/livez')).status, 200)
  t.equal((await get(open, '/metrics')).status, 200)
  await redis.start()
})

/** Asks again for as long as there is no room. */
async function untilAccepted(ask: () => Promise<Response>): Promise<Response> {
  for (;;) {
    const response = await ask()
    if (response.status !== 429) return response
    await response.body?.cancel()
    await delay(20)
  }
}
