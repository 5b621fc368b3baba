import t from 'tap'
import { problems, type ProblemCode } from '../../src/errors.ts'
import { startGateway } from '../gateway.ts'
import {
  exchange,
  get,
  isInvalid,
  isProblem,
  jobIn,
  leadWorker,
  openSocket,
  postText,
  submit,
} from './clients.ts'

const gateway = await startGateway(t, { echo: { steps: ['echo'], attempts: 1 } })
const unknown = '/jobs/0199a1b2-0000-7000-8000-000000000000'
const mebibyte = 1_048_576

t.test('a job that is not there is 404, and so is what cannot be an id', async (t) => {
  const { job_id: id } = await submit(gateway, { type: 'echo' })
  const ids = [
    unknown,
    '/jobs/1',
    '/jobs/__proto__',
    '/jobs/%00',
    '/jobs/%F0%9F%9A%80',
    `/jobs/${id.toUpperCase()}`,
  ]
  for (const path of [...ids, `/jobs/${id}x`]) {
    for (const rest of ['', '/events', '/result'])
      await isProblem(t, await get(gateway, path + rest), 'not_found')
    await isProblem(t, await fetch(`${gateway.url}${path}/cancel`, { method: 'POST' }), 'not_found')
    await isProblem(t, await fetch(`${gateway.url}${path}/callback`, { method: 'PUT' }), 'not_found')
  }
})

t.test('a cursor, a limit, a status or a page token that cannot be read is 400', async (t) => {
  const { links } = await submit(gateway, { type: 'echo' })
  const cursors = ['-1', '1.5', '1e3', 'x', '0x1', ' 1', '1'.repeat(16), '1&after=2']
  for (const cursor of cursors) {
    const query = `?after=${cursor.replace(' ', '%20')}`
    await isProblem(t, await get(gateway, links.self + query), 'bad_cursor')
    await isProblem(t, await get(gateway, links.events + query), 'bad_cursor')
    await isProblem(t, await get(gateway, links.events + query, { accept: 'application/json' }), 'bad_cursor')
  }
  for (const cursor of ['-1', '1.5', 'x', '"1"', '1, 2'])
    await isProblem(t, await get(gateway, links.events, { 'last-event-id': cursor }), 'bad_cursor')

  const json = { accept: 'application/json' }
  for (const limit of ['0', '-1', '1001', 'x', '', '1.5', '1e2', '1&limit=2'])
    await isProblem(t, await get(gateway, `${links.events}?limit=${limit}`, json), 'malformed_request')
  for (const query of [
    'limit=0',
    'limit=201',
    'limit=x',
    'status=done',
    'status=',
    'status=queued&status=failed',
    'page_token=x',
    'page_token=',
    'page_token=1&page_token=2',
  ])
    await isProblem(t, await get(gateway, `/jobs?${query}`), 'malformed_request')
})

t.test('names that mean something to JavaScript are refused, or mean nothing', async (t) => {
  for (const body of [
    '{"type":"echo","__proto__":{"admin":true}}',
    '{"type":"echo","input":{"a":[{"__proto__":1}]}}',
    '{"type":"echo","input":{"constructor":{"prototype":{"admin":true}}}}',
    '{"type":"echo","metadata":{"\\u005f_proto__":"x"}}',
  ])
    await isProblem(t, await postText(gateway, body), 'malformed_json')
  const attempts = await leadWorker(gateway, 'echo', { concurrency: 1_000 })
  const input = { constructor: 'x', toString: 1, hasOwnProperty: null, prototype: {} }
  const { job_id: id } = await submit(gateway, {
    type: 'echo',
    input,
    metadata: { constructor: 'y' },
    priority: 1,
  })
  for (;;) {
    const { job } = await attempts.next()
    if (job.id !== id) continue
    t.same(JSON.stringify(job.data), JSON.stringify(input))
    break
  }
  t.equal((await jobIn(await get(gateway, `/jobs/${id}`))).metadata['constructor'], 'y')
})

t.test('deep nesting and lone surrogates break nothing', async (t) => {
  const nest = (depth: number) => '['.repeat(depth) + ']'.repeat(depth)
  await isProblem(t, await postText(gateway, '['.repeat(mebibyte)), 'malformed_json')
  await isInvalid(t, await postText(gateway, nest(500_000)), [''])
  await isInvalid(t, await postText(gateway, `{"type":"echo","input":${nest(500_000)}}`), ['/input'])
  await isInvalid(t, await postText(gateway, `{"type":"echo","callback_events":${nest(500_000)}}`), [
    '/callback_events/0',
  ])
  await isInvalid(t, await postText(gateway, `{"type":"echo","metadata":{"a":${nest(500_000)}}}`), [
    '/metadata/a',
  ])

  const lone = '\\ud800'
  const response = await postText(
    gateway,
    `{"type":"echo","input":"${lone}","metadata":{"${lone}":"\\udfff"}}`,
  )
  t.equal(response.status, 202)
  t.match(await response.text(), '{"\\ud800":"\\udfff"}')
  await isInvalid(t, await postText(gateway, `{"type":"${lone}"}`), ['/type'])
  await isInvalid(t, await postText(gateway, `{"type":"echo","callback_url":"http://${lone}/"}`), [
    '/callback_url',
  ])

  const { send, frame } = await openSocket(t, gateway.url)
  send(`{"op":"submit","ref":1,"job":{"type":"echo","input":${nest(32_000)}}}`)
  t.match(await frame(), { op: 'error', ref: 1, problem: { code: 'invalid' } })
})

t.test('a request that cannot even be read is answered with a problem', async (t) => {
  const answerOf = async (request: string) => {
    const answer = await exchange(gateway.url, request)
    const [head = '', body = ''] = answer.split('\r\n\r\n')
    t.match(head, /\r\ncontent-type: application\/problem\+json/)
    const { code, status, title } = JSON.parse(body) as { code: ProblemCode; status: number; title: string }
    t.same({ status, title }, problems[code])
    t.match(head, new RegExp(`^HTTP/1\\.1 ${status} `))
    return code
  }
  t.equal(await answerOf('HELLO\r\n\r\n'), 'malformed_request')
  t.equal(await answerOf('GET /livez HTTP/1.1\r\nno colon\r\n\r\n'), 'malformed_request')
  t.equal(await answerOf('\u0016\u0003\u0001\u0002'), 'malformed_request', 'TLS to a plain port')
  const post = 'POST /jobs HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nconnection: close\r\n'
  t.equal(await answerOf(`${post}content-length: x\r\n\r\n`), 'malformed_request')
  t.equal(await answerOf(`${post}transfer-encoding: chunked\r\n\r\nzz\r\n`), 'malformed_request')
  const headers = `GET /livez HTTP/1.1\r\nhost: x\r\nx: ${'x'.repeat(17_000)}\r\n\r\n`
  t.equal(await answerOf(headers), 'headers_too_large')
})

t.test('after all of this the gateway lives, and is ready', async (t) => {
  t.equal((await get(gateway, '/livez')).status, 200)
  t.equal((await get(gateway, '/readyz')).status, 200)
})
