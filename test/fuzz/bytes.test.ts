import * as fc from 'fast-check'
import t from 'tap'
import { scrambled } from './arbitraries.ts'
import { brokenRequests } from './corpus.ts'
import { fuzz, inputsFor, judge, startFuzzedGateway } from './fuzzed-gateway.ts'
import { headerOf, sendBytes, type RawAnswer } from './raw-http.ts'

/** Connections at a time. */
const CROWD = 100
/** The request that is smuggled where two readers could disagree says so. */
const SMUGGLED = 'smuggled'

const { gateway, authorization, end } = await startFuzzedGateway(t)
let inputs = 0

async function attack(bytes: string): Promise<RawAnswer[]> {
  inputs++
  try {
    const answers = await sendBytes(gateway.url, bytes)
    for (const answer of answers) {
      judge(answer)
      if (headerOf(answer, 'x-request-id') === SMUGGLED) throw new Error('Expected nothing smuggled')
    }
    return answers
  } catch (error) {
    throw new Error(`${(error as Error).message} after ${JSON.stringify(bytes).slice(0, 2_000)}`, {
      cause: error,
    })
  }
}

t.test('what is no request, or could be read as two, is refused, and the connection ended', async (t) => {
  const smuggled = `GET /livez HTTP/1.1\r\nhost: x\r\nx-request-id: ${SMUGGLED}\r\n\r\n`
  for (const [what, bytes, expected] of brokenRequests(authorization, smuggled)) {
    const answers = await attack(bytes)
    t.strictSame(
      answers.map(({ status }) => status),
      expected,
      what,
    )
  }
})

t.test('whatever bytes come, what is answered is HTTP and one of the contract', async (t) => {
  const head = `host: x\r\nauthorization: ${authorization}\r\n`
  const body = '{"type":"echo","input":[1,{"a":"b"}]}'
  const post = `POST /jobs HTTP/1.1\r\n${head}content-type: application/json\r\ncontent-length: ${body.length}\r\n\r\n${body}`
  const chunked = `POST /jobs HTTP/1.1\r\n${head}content-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n5\r\n{"typ\r\n4;a=b\r\ne":1\r\n1\r\n}\r\n0\r\nx: y\r\n\r\n`
  const get = `GET /jobs?limit=1&status=queued HTTP/1.1\r\n${head}accept: application/json\r\nif-none-match: "1"\r\n\r\n`
  const upgrade = `GET /ws HTTP/1.1\r\n${head}connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-protocol: quartet.v1\r\n\r\n`
  const last = `GET /livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n`
  const valid = fc.constantFrom(post, chunked, get, upgrade, post + get)
  const bytes = fc.oneof(
    { weight: 6, arbitrary: scrambled(valid).map((bytes) => bytes + last) },
    { weight: 1, arbitrary: fc.string({ unit: 'binary', maxLength: 200 }) },
  )
  const size = { inputs: inputsFor('bytes'), crowd: CROWD }
  await fuzz(bytes, size, async (list) => void (await Promise.all(list.map(attack))))
  t.ok(inputs >= size.inputs, `${inputs} connections`)
})

t.test('afterwards a request that is one is answered', async (t) => {
  const [answer] = await sendBytes(
    gateway.url,
    'GET /readyz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n',
  )
  t.equal(answer?.status, 200)
  await end()
})
