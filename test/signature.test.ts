import { Webhook } from 'standardwebhooks'
import t from 'tap'
import { generateSecret, parseSecrets, sign } from '../src/deliver/signature.ts'

const secretOf = (bytes: number) => `whsec_${Buffer.alloc(bytes, 7).toString('base64')}`

function headersFor(secrets: string, body: string) {
  const id = '0199a1b2-0000-7000-8000-000000000000.7'
  const timestamp = Math.floor(Date.now() / 1_000)
  return {
    'webhook-id': id,
    'webhook-timestamp': String(timestamp),
    'webhook-signature': sign(parseSecrets(secrets), { id, timestamp, body }),
  }
}

t.test('the Standard Webhooks example has the signature of the reference implementation', async (t) => {
  const secret = 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw'
  const message = { id: 'msg_p5jXN8AQM9LWM0D4loKWxJek', timestamp: 1614265330, body: '{"test": 2432232314}' }
  t.equal(sign(parseSecrets(secret), message), 'v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=')
})

t.test('a receiver with the reference library verifies what a generated secret signed', async (t) => {
  const secret = generateSecret()
  const body = '{"type":"job.completed","data":{"text":"grüße ✓"}}'
  t.strictSame(new Webhook(secret).verify(body, headersFor(secret, body)), JSON.parse(body))
})

t.test('a changed body does not verify', async (t) => {
  const secret = generateSecret()
  const headers = headersFor(secret, '{"a":1}')
  t.throws(() => new Webhook(secret).verify('{"a":2}', headers), { message: 'No matching signature found' })
})

t.test('while a secret rotates, receivers with the old and with the new one both verify', async (t) => {
  const [old, next, other] = [generateSecret(), generateSecret(), generateSecret()]
  const body = '{"rotating":true}'
  const headers = headersFor(`${old}, ${next}`, body)
  t.match(headers['webhook-signature'], /^v1,\S{44} v1,\S{44}$/)
  t.strictSame(new Webhook(old).verify(body, headers), { rotating: true })
  t.strictSame(new Webhook(next).verify(body, headers), { rotating: true })
  t.throws(() => new Webhook(other).verify(body, headers))
})

t.test('generated secrets differ', async (t) => {
  t.not(generateSecret(), generateSecret())
})

t.test('secrets of 24 to 64 bytes are taken', async (t) => {
  t.strictSame(
    parseSecrets(`${secretOf(24)},${secretOf(64)}`).map((key) => key.length),
    [24, 64],
  )
})

t.test('a bad secret is named by its position and its fault, and never shown', async (t) => {
  const expected = 'Expected whsec_<base64 of 24 to 64 bytes> as secret'
  const letters = Buffer.alloc(24, 7).toString('base64')
  const faults = [
    ['', '1, got nothing'],
    [`${secretOf(32)},`, '2, got nothing'],
    [letters, '1, got another prefix'],
    [`${secretOf(32)},whsk_${letters}`, '2, got another prefix'],
    [`whsec_${letters}!`, '1, got text that is not padded base64'],
    [secretOf(32).slice(0, -1), '1, got text that is not padded base64'],
    [secretOf(23), '1, got 23 bytes'],
    [`${secretOf(24)},${secretOf(65)}`, '2, got 65 bytes'],
  ] as const
  for (const [text, fault] of faults) {
    t.throws(() => parseSecrets(text), { message: `${expected} ${fault}` })
  }
})
