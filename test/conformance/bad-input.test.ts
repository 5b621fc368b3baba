import t from 'tap'
import { startGateway } from '../gateway.ts'
import { exchange, isInvalid, isProblem, postText, putCallback, submit } from './clients.ts'

const gateway = await startGateway(t, {
  echo: { steps: ['echo'], attempts: 1 },
  order: {
    steps: ['order'],
    input: {
      type: 'object',
      required: ['order_id', 'items'],
      additionalProperties: false,
      properties: {
        order_id: { type: 'string', minLength: 1 },
        'odd/~name': { type: 'integer' },
        items: {
          type: 'array',
          items: { type: 'object', required: ['sku'], properties: { quantity: { type: 'integer' } } },
        },
      },
    },
  },
})
const mebibyte = 1_048_576

t.test('a body that is not JSON is 400', async (t) => {
  for (const body of ['', '{', '{"type":"echo"', "{'type':'echo'}", 'NaN', '\ufffe{}', '{"type":"echo"}{}'])
    await isProblem(t, await postText(gateway, body), 'malformed_json')
  await isProblem(t, await postText(gateway, Buffer.from([0x7b, 0xff, 0xfe, 0x7d])), 'malformed_json')
})

t.test('a body of another media type is 415', async (t) => {
  for (const type of [
    'text/plain',
    'application/xml',
    'application/x-www-form-urlencoded',
    'application/jsonp',
    'json',
  ])
    await isProblem(t, await postText(gateway, '{"type":"echo"}', type), 'unsupported_media_type')
  t.equal((await postText(gateway, '{"type":"echo"}', 'application/json; charset=utf-8')).status, 202)
})

t.test('a body of more than 1 MiB is 413, told as soon as its length is known', async (t) => {
  const fill = (size: number) => `{"type":"echo","input":"${'x'.repeat(size - 26)}"}`
  t.equal((await postText(gateway, fill(mebibyte))).status, 202)
  await isProblem(t, await postText(gateway, fill(mebibyte + 1)), 'payload_too_large')
  const head = 'POST /jobs HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n'
  const early = await exchange(gateway.url, `${head}content-length: ${mebibyte + 1}\r\n\r\n`)
  t.match(early, /^HTTP\/1\.1 413 /)
  t.match(early, '"code":"payload_too_large"')
  const chunk = `${(mebibyte + 1).toString(16)}\r\n${fill(mebibyte + 1)}\r\n0\r\n\r\n`
  const chunked = await exchange(gateway.url, `${head}transfer-encoding: chunked\r\n\r\n${chunk}`)
  t.match(chunked, '"code":"payload_too_large"')
})

t.test('every violation of a job request is told in one answer', async (t) => {
  for (const body of ['null', '[]', '"echo"', '1', 'true'])
    await isInvalid(t, await postText(gateway, body), [''])
  await isInvalid(t, await fetch(`${gateway.url}/jobs`, { method: 'POST' }), [''])
  await isInvalid(t, await gateway.post({}), ['/type'])
  await isInvalid(t, await gateway.post({ type: 'nothing' }), ['/type'])
  await isInvalid(t, await gateway.post({ type: '__proto__' }), ['/type'])
  await isInvalid(t, await gateway.post({ type: 5, input: 1 }), ['/type'])
  await isInvalid(t, await gateway.post({ type: 'echo', inptu: 1, 'a/b~c': 2 }), ['/inptu', '/a~1b~0c'])

  const many = {
    type: 'order',
    input: { items: [{ sku: 1 }, { quantity: 1.5 }], more: 1, 'odd/~name': 'x' },
    callback_url: 'ftp://127.0.0.1/',
    callback_events: ['job.completed', 'job.snapshot', 'nothing'],
    priority: 2_097_152,
    delay_ms: -1,
    deadline_ms: 0,
    metadata: { fine: 'x', number: 1, long: 'x'.repeat(513) },
    unknown: true,
  }
  await isInvalid(t, await gateway.post(many), [
    '/input/order_id',
    '/input/items/1/sku',
    '/input/items/1/quantity',
    '/input/more',
    '/input/odd~1~0name',
    '/callback_url',
    '/callback_events/1',
    '/callback_events/2',
    '/priority',
    '/delay_ms',
    '/deadline_ms',
    '/metadata/number',
    '/metadata/long',
    '/unknown',
  ])
  await isInvalid(t, await gateway.post({ type: 'order' }), ['/input'])
})

t.test('each member of a job request is judged', async (t) => {
  const wrong = {
    priority: [-1, 2_097_152, 1.5, '1', null],
    delay_ms: [-1, 31_536_000_001, 0.5, '1', null],
    deadline_ms: [0, -1, 31_536_000_001, 0.5, '1', null],
    metadata: [Object.fromEntries(Array.from({ length: 51 }, (_, n) => [n, ''])), [], 'x', null],
    callback_events: [[], 'job.completed', null, Array.from({ length: 12 }, () => '*')],
    callback_url: [
      '',
      null,
      1,
      'nowhere',
      '/hook',
      'ftp://127.0.0.1/',
      'http://user:secret@127.0.0.1/',
      `http://127.0.0.1/${'x'.repeat(2_048)}`,
      'http://10.1.2.3/',
      'http://169.254.169.254/latest/meta-data',
      'http://[::ffff:10.0.0.1]/',
    ],
  }
  for (const [member, values] of Object.entries(wrong)) {
    for (const value of values)
      await isInvalid(t, await gateway.post({ type: 'echo', [member]: value }), [`/${member}`])
  }
  for (const name of ['', 'n'.repeat(65)])
    await isInvalid(t, await gateway.post({ type: 'echo', metadata: { [name]: 'x' } }), [`/metadata/${name}`])
  for (const times of [
    { deadline_ms: 5, delay_ms: 5 },
    { deadline_ms: 5, delay_ms: 6, priority: 0 },
  ])
    await isInvalid(t, await gateway.post({ type: 'echo', ...times }), ['/deadline_ms'])
  const both = { type: 'echo', priority: -1, deadline_ms: 5, delay_ms: 6 }
  await isInvalid(t, await gateway.post(both), ['/priority', '/deadline_ms'])

  const extremes = {
    priority: 2_097_151,
    delay_ms: 31_535_999_999,
    deadline_ms: 31_536_000_000,
    metadata: Object.fromEntries(
      Array.from({ length: 50 }, (_, n) => [`${n}`.padStart(64, 'n'), '\ud83d\ude80'.repeat(512)]),
    ),
    callback_events: ['*', 'job.queued'],
  }
  t.equal((await gateway.post({ type: 'echo', ...extremes })).status, 202)
})

t.test('a return address that cannot be used is told what is wrong, by POST and by PUT', async (t) => {
  const { job_id: id } = await submit(gateway, { type: 'echo' })
  const put = (body: unknown) => putCallback(gateway, id, body)
  await isInvalid(t, await put(null), [''])
  await isInvalid(t, await put({}), ['/callback_url'])
  await isInvalid(
    t,
    await put({ callback_url: 'http://10.1.2.3/', callback_events: ['x'], after: -1, more: 1 }),
    ['/callback_url', '/callback_events/0', '/after', '/more'],
  )
  const fine = 'http://127.0.0.1:9/hook'
  for (const after of ['1', 1.5, -1, null])
    await isInvalid(t, await put({ callback_url: fine, after }), ['/after'])
  for (const after of [2, 1e15, 1e300])
    await isProblem(t, await put({ callback_url: fine, after }), 'bad_cursor')
  await isProblem(t, await put({ callback_url: 'http://10.1.2.3/', after: 99 }), 'invalid')

  const deaf = await startGateway(
    t,
    { echo: { steps: ['echo'] } },
    { redis: gateway.redis, env: { QUARTET_WEBHOOK_SECRET: '' } },
  )
  await isInvalid(t, await deaf.post({ type: 'echo', callback_url: fine }), ['/callback_url'])
})

t.test('a long list of violations is cut short, and a large input is told its first one only', async (t) => {
  const items = (count: number) => Array.from({ length: count }, () => ({ sku: 1, quantity: 'x' }))
  const many = await isProblem(
    t,
    await gateway.post({ type: 'order', input: { items: items(200) } }),
    'invalid',
  )
  t.equal(many.errors?.length, 100)
  const large = await isProblem(
    t,
    await gateway.post({ type: 'order', input: { items: items(5_000) } }),
    'invalid',
  )
  t.equal(large.errors?.length, 1)
  const counted = {
    metadata: Object.fromEntries(items(51).map((_, n) => [n, n])),
    callback_events: items(12),
  }
  await isInvalid(t, await gateway.post({ type: 'echo', ...counted }), ['/metadata', '/callback_events'])
})
