import { randomBytes } from 'node:crypto'
import { connect } from 'node:net'
import * as fc from 'fast-check'
import t from 'tap'
import { problems, type ProblemCode } from '../../src/errors.ts'
import { jsonText, mutated, scrambled } from './arbitraries.ts'
import { texts, utf8 } from './corpus.ts'
import { fuzz, inputsFor, startFuzzedGateway } from './fuzzed-gateway.ts'
import { readAnswer } from './raw-http.ts'

/** Sockets at a time, and the messages of each that it survives. */
const CROWD = 20
const MESSAGES = 24
/** Longer than the gateway waits for a peer that does not answer its close. */
const PATIENCE_MS = 30_000

const { gateway, authorization, work, end } = await startFuzzedGateway(t)
await work('echo', async (job) => job.data as unknown)
await work('judged', async () => null)
const key = authorization.slice('Bearer '.length)
let inputs = 0

/** A frame as it is on the wire (RFC 6455 section 5.2), one character a byte. */
interface Frame {
  /** FIN, RSV1 to 3 and the opcode. */
  readonly first: number
  readonly isMasked: boolean
  readonly payload: string
}
const TEXT = 0x81
const CLOSE = 0x88
const textFrame = (payload: string): Frame => ({ first: TEXT, isMasked: true, payload })

function toBytes({ first, isMasked, payload }: Frame): Buffer {
  const length = payload.length
  const masked = isMasked ? 0x80 : 0
  const head =
    length < 126
      ? [first, masked | length]
      : length < 65_536
        ? [first, masked | 126, length >> 8, length & 255]
        : [
            first,
            masked | 127,
            0,
            0,
            0,
            0,
            length >>> 24,
            (length >> 16) & 255,
            (length >> 8) & 255,
            length & 255,
          ]
  const mask = isMasked ? randomBytes(4) : Buffer.alloc(0)
  const body = Buffer.from(payload, 'latin1')
  if (isMasked) for (const [index, byte] of body.entries()) body[index] = byte ^ (mask[index % 4] ?? 0)
  return Buffer.concat([Buffer.from(head), mask, body])
}

interface Received {
  readonly opcode: number
  readonly payload: Buffer
}

/** Takes the server's whole frames off the beginning, none of which may be in pieces, compressed or masked. */
function readFrames(bytes: Buffer): { frames: Received[]; rest: Buffer } {
  const frames: Received[] = []
  for (let at = 0; ;) {
    const [first, second] = bytes.subarray(at)
    if (first === undefined || second === undefined) return { frames, rest: bytes.subarray(at) }
    if ((first & 0xf0) !== 0x80 || second > 127) {
      throw new Error(`Expected a whole plain frame, got ${first} ${second}`)
    }
    const from = at + (second === 126 ? 4 : second === 127 ? 10 : 2)
    if (from > bytes.length) return { frames, rest: bytes.subarray(at) }
    const length =
      second === 126
        ? bytes.readUInt16BE(at + 2)
        : second === 127
          ? Number(bytes.readBigUInt64BE(at + 2))
          : second
    if (from + length > bytes.length) return { frames, rest: bytes.subarray(at) }
    frames.push({ opcode: first & 0x0f, payload: bytes.subarray(from, from + length) })
    at = from + length
  }
}

/** What one socket sends: messages of the protocol with hostile contents, and then what ends it. */
interface Conversation {
  readonly messages: readonly string[]
  readonly last: Frame
}

const ref = (n: number): string => (n % 2 === 0 ? String(n) : JSON.stringify(`${n}\r\n`))
const id = fc.oneof(
  fc.constantFrom('0199a1b2-0000-7000-8000-000000000000', ...texts),
  fc.string({ unit: 'binary', maxLength: 20 }),
)
const job = fc.oneof(
  {
    weight: 3,
    arbitrary: mutated([
      ['type', '"echo"'],
      ['input', '[1]'],
      ['metadata', '{"a":"b"}'],
    ]),
  },
  { weight: 1, arbitrary: jsonText.filter(isJson) },
)
const message = fc.oneof(
  fc.tuple(job.filter(isJson), fc.option(id)).map(([job, key]) => {
    const idempotency = key === null ? '' : `,"idempotency_key":${utf8(JSON.stringify(key))}`
    return (ref: string) => `{"op":"submit","ref":${ref},"job":${job}${idempotency}}`
  }),
  fc.tuple(id, fc.constantFrom('', ',"after":0', ',"after":1e15', ',"after":1e300')).map(([id, after]) => {
    return (ref: string) => `{"op":"subscribe","ref":${ref},"job_id":${utf8(JSON.stringify(id))}${after}}`
  }),
  fc.tuple(id, fc.constantFrom('unsubscribe', 'cancel')).map(([id, op]) => {
    return (ref: string) => `{"ref":${ref},"job_id":${utf8(JSON.stringify(id))},"op":"${op}"}`
  }),
)

/** Whether the gateway can read it: what it cannot ends the socket, and is for the last frame. */
function isJson(text: string): boolean {
  try {
    JSON.parse(Buffer.from(text, 'latin1').toString())
    return !/proto|constructor/.test(text) && !/[\x80-\xff]/.test(text)
  } catch {
    return false
  }
}

const members = [
  ['op', '"subscribe"'],
  ['ref', '1'],
  ['job_id', '"x"'],
] as const
const ending: fc.Arbitrary<Frame> = fc.oneof(
  mutated(members).map((text) => textFrame(`${text} "`)),
  mutated([...members, ['loud', 'true']]).map((text) => textFrame(text.replace('"subscribe"', '"shout"'))),
  scrambled(fc.constant('{"op":"ping"}')).map((text) => textFrame(`${text}}`)),
  jsonText.map((text) => textFrame(`[${text}]`)),
  fc.constantFrom(...texts).map((text) => textFrame(utf8(`{"op":${JSON.stringify(text)}}`))),
  fc
    .constantFrom('\xff', '\xc0\x80', '\xed\xa0\x80', '\xf4\x90\x80\x80', '{"op":"ping"}\xe2\x82')
    .map(textFrame),
  fc.constantFrom(65_537, 1_048_576).map((length) => textFrame('['.repeat(length))),
  fc.constant(textFrame('['.repeat(65_000))),
  // Binary, continuations of nothing, reserved bits and opcodes, control frames in pieces or too long, no mask.
  fc
    .nat({ max: 255 })
    .filter((first) => ![0x01, 0x81, 0x89, 0x8a, 0x88].includes(first))
    .map((first) => ({ ...textFrame('{"op":"ping"}'), first })),
  fc.constantFrom(0x88, 0x89, 0x8a).map((first) => ({ ...textFrame('x'.repeat(126)), first })),
  fc.constant({ ...textFrame('{"op":"ping"}'), isMasked: false }),
  // Closes: no code, half a code, codes that may not be sent, reasons that are not UTF-8.
  fc
    .constantFrom(
      '',
      '\x03',
      '\x03\xe8',
      '\x03\xed',
      '\x00\x00',
      '\xff\xff',
      '\x03\xe8\xff\xff',
      '\x0f\xa0\r\n\0',
    )
    .map((payload) => ({ ...textFrame(payload), first: 0x88 })),
)
const conversation: fc.Arbitrary<Conversation> = fc.record({
  messages: fc
    .array(message, { minLength: MESSAGES, maxLength: MESSAGES })
    .map((messages) => messages.map((each, index) => each(ref(index)))),
  last: ending,
})

const handshake = [
  'GET /ws HTTP/1.1',
  'host: x',
  'connection: upgrade',
  'upgrade: websocket',
  'sec-websocket-version: 13',
  'sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==',
  'sec-websocket-protocol: quartet.v1',
]

/** Sends the messages at once; when each is answered, what ends the socket, and reads until the connection is over. */
async function converse({ messages, last }: Conversation): Promise<void> {
  const { promise, resolve, reject } = deferred()
  const socket = connect(Number(new URL(gateway.url).port), '127.0.0.1')
  const timer = setTimeout(
    () => reject(new Error(`Expected an end, got none in ${PATIENCE_MS} ms`)),
    PATIENCE_MS,
  )
  let rest = Buffer.alloc(0)
  let isUpgraded = false
  let answered = 0
  socket.on('data', (data) => {
    try {
      rest = Buffer.concat([rest, data])
      if (!isUpgraded) {
        const found = readAnswer(rest.toString('latin1'), 'GET', false)
        if (!found) return
        if (found.answer.status !== 101) throw new Error(`Expected 101, got ${JSON.stringify(found)}`)
        isUpgraded = true
        rest = Buffer.from(found.answer.body, 'latin1')
      }
      const read = readFrames(rest)
      rest = Buffer.from(read.rest)
      const before = answered
      for (const frame of read.frames) if (judgeFrame(frame, ref(answered))) answered++
      if (answered === messages.length && before < answered) {
        inputs += messages.length + 1
        socket.write(toBytes(last))
        socket.write(toBytes({ first: CLOSE, isMasked: true, payload: '\x03\xe8' }))
      }
    } catch (error) {
      reject(error as Error)
    }
  })
  // A connection may be reset by what ends it, as it is sent more than it reads.
  socket.on('error', () => undefined)
  socket.on('close', () => {
    if (answered === messages.length) resolve()
    else reject(new Error(`Expected ${messages.length} answers, got ${answered}`))
  })
  // What comes with the handshake itself is read as well.
  socket.write(`${handshake.join('\r\n')}\r\n\r\n`)
  for (const text of [JSON.stringify({ op: 'init', token: key }), ...messages])
    socket.write(toBytes(textFrame(text)))
  await promise.finally(() => {
    clearTimeout(timer)
    socket.destroy()
  })
}

function deferred() {
  let resolve!: () => void
  let reject!: (error: Error) => void
  const promise = new Promise<void>((resolvePromise, rejectPromise) => {
    resolve = resolvePromise
    reject = rejectPromise
  })
  return { promise, resolve, reject }
}

const answers = ['accepted', 'subscribed', 'done', 'error']
const unasked = ['ready', 'event', 'end', 'pong']
const codes = [1000, 1002, 1003, 1005, 1007, 1009, 4000, 4400]

/** Holds a frame against the contract. @returns whether it is an answer, which is the one to `expected` */
function judgeFrame({ opcode, payload }: Received, expected: string): boolean {
  const text = payload.toString()
  if (opcode === 8) {
    const code = payload.length > 0 ? payload.readUInt16BE(0) : 1005
    if (!codes.includes(code)) throw new Error(`Expected a close of the contract, got ${code}`)
    return false
  }
  if (opcode === 9 || opcode === 10) return false
  const { op, ref, problem } = JSON.parse(text) as {
    op: string
    ref?: unknown
    problem?: { code: ProblemCode; status: number }
  }
  if (unasked.includes(op)) return false
  if (!answers.includes(op)) throw new Error(`Expected an op of the contract, got ${text}`)
  if (JSON.stringify(ref) !== expected) throw new Error(`Expected the answer to ${expected}, got ${text}`)
  if (!problem) return true
  const { status } = Object.hasOwn(problems, problem.code) ? problems[problem.code] : { status: 0 }
  if (status !== problem.status || (status >= 500 && status !== 503)) throw new Error(`Expected no ${text}`)
  return true
}

t.test(
  'whatever frames come, each message has its answer, and the socket ends by the contract',
  async (t) => {
    const size = { inputs: inputsFor('frames') / (MESSAGES + 1), crowd: CROWD }
    await fuzz(conversation, size, async (conversations) => {
      await Promise.all(
        conversations.map(async (each) => {
          try {
            await converse(each)
          } catch (error) {
            throw new Error(`${(error as Error).message} after ${JSON.stringify(each).slice(0, 4_000)}`, {
              cause: error,
            })
          }
        }),
      )
    })
    t.ok(inputs >= inputsFor('frames'), `${inputs} frames`)
    t.equal((await fetch(`${gateway.url}/readyz`)).status, 200)
  },
)

t.test('and it closes when it is told to', () => end())
