import { randomBytes } from 'node:crypto'
import { Writable } from 'node:stream'
import { setTimeout as delay } from 'node:timers/promises'
import t from 'tap'
import { createLog } from '../src/log.ts'
import { redact } from '../src/redact.ts'
import { deliveriesOf } from './conformance/delivery-calls.ts'
import {
  ended,
  exchange,
  get,
  openSocket,
  putCallback,
  startReceiver,
  submit,
} from './conformance/clients.ts'
import { startIssuer } from './issuer.ts'
import { startKeyedGateway, withKey } from './keys.ts'

/* No secret is in the log, in a problem, in the metrics, or in Redis where it need not be. */

/** A log that is kept. */
function keepLog() {
  const chunks: string[] = []
  const destination = new Writable({
    write(chunk: Buffer, _encoding, done) {
      chunks.push(chunk.toString())
      done()
    },
  })
  return {
    log: createLog('trace', destination),
    text: () => chunks.join(''),
    lines: () =>
      chunks
        .join('')
        .trim()
        .split('\n')
        .filter(Boolean)
        .map((line) => JSON.parse(line) as Line),
  }
}

type Line = Record<string, unknown> & { msg: string }

const isId = (text: unknown) => /^[0-9a-f-]{36}$/.test(String(text))
const secretIn = (text: string) => text.slice(-20)

t.test('whatever is sent, and whatever goes wrong, no secret of it is shown or kept', async (t) => {
  const kept = keepLog()
  const issuing = await startIssuer(t)
  await issuing.addKey('one', 'ES256')
  const gateway = await startKeyedGateway(
    t,
    {
      echo: { steps: ['echo'], attempts: 1 },
      idle: { steps: ['idle'] },
      bad: { steps: ['bad'], attempts: 1 },
    },
    {
      logger: kept.log,
      env: { QUARTET_AUTH: 'keys,jwt', QUARTET_CALLBACK_SCHEDULE: '1ms', LOG_LEVEL: 'trace', ...issuing.env },
    },
  )
  await gateway.work('echo', async (job) => job.data as unknown)
  await gateway.work('bad', async () => Promise.reject(new Error('failed')))
  const { key } = await gateway.createKey()
  const owner = withKey(gateway, key)
  const job = await submit(owner, { type: 'echo' })
  const given = await fetch(`${gateway.url}${job.links.self}/tokens`, {
    method: 'POST',
    headers: owner.headers,
  })
  const { token } = (await given.json()) as { token: string }
  const jwt = await issuing.sign({ scope: 'jobs:read jobs:write' })
  const inUrl = randomBytes(15).toString('base64url')
  const basic = Buffer.from(`user:${randomBytes(15).toString('hex')}`).toString('base64')
  const secrets = [
    key,
    token,
    jwt,
    `qk_${'0'.repeat(16)}_${randomBytes(32).toString('base64url')}`,
    inUrl,
    basic,
    gateway.secret,
  ]

  const answers: string[] = []
  type Init = { method?: string; headers?: Record<string, string>; body?: string }
  const ask = async (path: string, init: Init = {}) => {
    const response = await fetch(gateway.url + path, {
      ...init,
      headers: { ...owner.headers, ...init.headers },
    })
    // A stream would go on, and 304 and the like have nothing.
    if (response.headers.get('content-type')?.includes('json')) answers.push(await response.text())
    else await response.body?.cancel()
  }
  const json = { 'content-type': 'application/json' }
  const post = (path: string, body: unknown, headers: Record<string, string> = {}) =>
    ask(path, {
      method: 'POST',
      headers: { ...json, ...headers },
      body: typeof body === 'string' ? body : JSON.stringify(body),
    })

  for (const secret of secrets.filter((each) => each !== inUrl && each !== basic)) {
    const text = encodeURIComponent(secret)
    for (const path of [
      `/${text}`,
      `/jobs/${text}`,
      `/jobs/${text}/events?after=${text}`,
      `${job.links.self}?after=${text}`,
      `${job.links.self}?token=${text}`,
      `${job.links.events}?limit=${text}`,
      `/jobs?status=${text}`,
      `/jobs?page_token=${text}&type=${text}`,
      `/deliveries?status=${text}`,
      `/deliveries?status=dead&origin=${text}`,
    ])
      await ask(path)
    const named: Record<string, string>[] = [
      { authorization: `Bearer ${secret}` },
      { authorization: `Basic ${secret}` },
      { authorization: secret },
      { cookie: `session=${secret}` },
      { accept: secret },
      { prefer: `wait=${secret}` },
      { 'last-event-id': secret },
      { 'x-request-id': secret },
      { 'if-none-match': secret },
    ]
    for (const headers of named) await ask(job.links.events, { headers })
    await post('/jobs', { type: secret })
    await post('/jobs', { type: 'idle', [secret]: secret })
    await post('/jobs', { type: 'idle', priority: secret, metadata: { [secret]: 1 } })
    await post('/jobs', { type: 'idle', callback_url: secret })
    await post('/jobs', { type: 'idle' }, { 'idempotency-key': `${secret}é` })
    await post('/jobs', `{"${secret}`)
    await post(`${job.links.self}/tokens`, { ttl_s: secret })
    await exchange(
      gateway.url,
      `GET /${text} HTTP/1.1\r\nauthorization: Bearer ${secret}\r\nbad header\r\n\r\n`,
    )

    const { send, closed } = await openSocket(t, gateway.url, { init: false })
    send({ op: 'init', token: `${secret}x` })
    send({ op: secret })
    await closed
    const other = await openSocket(t, gateway.url, { token: key })
    for (const message of [
      { op: 'subscribe', ref: 1, job_id: secret },
      { op: 'submit', ref: 1, job: { type: secret } },
    ]) {
      other.send(message)
      const frame = await other.frame()
      answers.push(JSON.stringify(frame.problem))
    }
  }

  await ask('/jobs', { headers: { authorization: `Basic ${basic}` } })

  // Return addresses, some refused and one that fails until it is dead.
  const receiver = await startReceiver(t, (response) => response.writeHead(500).end())
  for (const url of [
    `http://user:${inUrl}@127.0.0.1/`,
    `http://127.0.0.1:1/?key=${inUrl}#${inUrl}`,
    `ftp://127.0.0.1/?${inUrl}`,
    `http://nowhere.invalid/?key=${inUrl}`,
    `http://"${inUrl}`,
  ]) {
    await post('/jobs', { type: 'idle', callback_url: url })
  }
  const called = await submit(owner, { type: 'bad', callback_url: `${receiver.url}?key=${inUrl}` })
  await ended(owner, called.job_id)
  while ((await deliveriesOf(owner, called.job_id)).deliveries[0]?.status !== 'dead') await delay(20)
  answers.push(JSON.stringify(await deliveriesOf(owner, called.job_id)))
  answers.push(await (await get(owner, '/metrics')).text())

  // What Redis has of them: a return address where it is needed, and nothing else.
  const redis = gateway.redis.connect()
  const everything: string[] = []
  for (const name of await redis.keys('*')) {
    const dump = (await redis.dumpBuffer(name)).toString('latin1')
    const isNeeded = name.startsWith('{quartet}:job:')
    everything.push(name, isNeeded ? dump.replaceAll(`key=${inUrl}`, '') : dump)
  }

  // While Redis is away errors know of commands and their arguments.
  await gateway.redis.stop()
  await post('/jobs', { type: 'idle', callback_url: `${receiver.url}?key=${inUrl}` })
  await putCallback(owner, job.job_id, { callback_url: `${receiver.url}?key=${inUrl}` })
  await ask(`${job.links.self}?token=${token}`)

  const lines = kept.lines()
  for (const message of [
    'a job was accepted',
    'a delivery is dead',
    'Redis does not answer; try again shortly',
  ])
    t.ok(
      lines.some(({ msg }) => msg === message),
      `the log has: ${message}`,
    )
  t.ok(answers.length > 100)
  t.ok(everything.length > 20)
  for (const [index, secret] of secrets.entries()) {
    for (const [where, text] of Object.entries({
      log: kept.text(),
      answers: answers.join('\n'),
      Redis: everything.join('\n'),
    })) {
      t.notOk(text.includes(secretIn(secret)), `secret ${index} is not in the ${where}`)
    }
  }

  const ofJobs = lines.filter(({ job_id, code }) => isId(job_id) && code !== 'unauthorized')
  t.ok(ofJobs.length > 20)
  t.strictSame(new Set(ofJobs.map(({ tenant }) => tenant)), new Set(['acme']), 'each says whose it is')
  const ofRequests = lines.filter(({ code }) => code === 'invalid')
  t.ok(ofRequests.length > 20)
  t.ok(ofRequests.every(({ request_id }) => isId(request_id)))
})

t.test('secrets are taken out of text wherever they stand, and JSON stays JSON', (t) => {
  const key = 'qk_00112233445566ff_abcDEF-_0123456789abcDEF-_0123456789abcdefg'
  for (const [text, shown] of [
    [`key ${key}.`, 'key qk_00112233445566ff_[redacted].'],
    [`"Bearer ${key}"`, '"Bearer [redacted]"'],
    ['/jobs/x?token=qt_eyJqIjoi.abc-_9&after=1', '/jobs/x?token=qt_[redacted]&after=1'],
    ['x eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhIn0.c2ln y', 'x [redacted] y'],
    ['authorization: Basic dXNlcjpwYXNz', 'authorization: Basic [redacted]'],
    ['whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw, whsk_ab+/=', 'whsec_[redacted], whsk_[redacted]'],
    ['redis://:hunter2@127.0.0.1:6379/0', 'redis://[redacted]@127.0.0.1:6379/0'],
    ['at http://a.b/c?d=e#f then', 'at http://a.b/c?[redacted] then'],
    ['http://user:pw@a.b/c#f', 'http://[redacted]@a.b/c#[redacted]'],
    ['nothing to hide at http://a.b/c or a@b.c', 'nothing to hide at http://a.b/c or a@b.c'],
  ] as const) {
    t.equal(redact(text), shown)
  }
  for (const secret of ['?x=1"quoted"', '?x=\\back', '?x=1\\', '?x=\u0001\n', '#"', '?"\\"']) {
    const line = JSON.stringify({ msg: `http://a.b/c${secret}`, next: 'http://a/?b' })
    t.match(JSON.parse(redact(line)), { msg: /^http:\/\/a\.b\/c/, next: 'http://a/?[redacted]' }, line)
  }
  t.end()
})

t.test('an error is logged without what hangs on it', (t) => {
  const { log, lines } = keepLog()
  const command = { name: 'hset', args: ['{quartet}:job:x', 'input', 'a secret'] }
  log.warn({ err: Object.assign(new Error('Command timed out'), { command, code: 'ETIMEDOUT' }) }, 'trouble')
  log.warn({ err: new Error('outer', { cause: new Error('inner') }) }, 'trouble')
  log.warn({ err: 'text' }, 'trouble')
  const [first, second, third] = lines()
  t.strictSame(Object.keys(first?.['err'] as object), ['type', 'message', 'stack', 'code'])
  t.match(second?.['err'], { message: 'outer: inner' })
  t.equal(third?.['err'], 'text')
  t.end()
})
