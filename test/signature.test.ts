import { createPublicKey, verify } from 'node:crypto'
import { Webhook } from 'standardwebhooks'
import t from 'tap'
import {
  generatePrivateKey,
  generateSecret,
  parseSigningKeys,
  publicKeyOf,
  sign,
} from '../src/deliver/signature.ts'

const secretOf = (bytes: number) => `whsec_${Buffer.alloc(bytes, 7).toString('base64')}`
const privateKeyOf = (bytes: number) => `whsk_${Buffer.alloc(bytes, 7).toString('base64')}`
const keysOf = (text: string, tenant = 'default') => parseSigningKeys(text).of(tenant)
const kindsOf = (text: string, tenant: string) => keysOf(text, tenant).map(({ type }) => type)

/** The message of the reference implementations' own tests. */
const message = { id: 'msg_p5jXN8AQM9LWM0D4loKWxJek', timestamp: 1614265330, body: '{"test": 2432232314}' }
const svix = {
  seed: 'whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbc=',
  pair: 'whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg==',
  publicKey: 'whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4=',
  signature: 'v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+m7TBAg==',
}

function headersFor(keys: string, body: string) {
  const id = '0199a1b2-0000-7000-8000-000000000000.7'
  const timestamp = Math.floor(Date.now() / 1_000)
  return {
    'webhook-id': id,
    'webhook-timestamp': String(timestamp),
    'webhook-signature': sign(keysOf(keys), { id, timestamp, body }),
  }
}

t.test('the Standard Webhooks example has the signature of the reference implementation', async (t) => {
  const secret = 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw'
  t.equal(sign(keysOf(secret), message), 'v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=')
})

t.test('an Ed25519 signature is the one of the Go library, and of Svix', async (t) => {
  const go = 'whsk_VEVTVFNJR05JTkdLRVlET05PVFVTRVRISVNGT1JBTlk='
  t.equal(
    sign(keysOf(go), message),
    'v1a,tQ9V2XOqn7jL/DQenEFpqIugdBVtiMmER5mhSkXBNwM0mkATuDe6KYYUuxqtaiHeYGb7KaaBRdM5WqyeFiL8Ag==',
  )
  for (const key of [svix.seed, svix.pair]) t.equal(sign(keysOf(key), message), svix.signature)
})

t.test('the public key of a private key is told, in whatever form that is', async (t) => {
  for (const key of [svix.seed, svix.pair, `acme:${svix.seed}\n`]) t.equal(publicKeyOf(key), svix.publicKey)
  t.throws(() => publicKeyOf(generateSecret()), {
    message: 'Expected a key that begins with whsk_, got whsec_',
  })
  t.throws(() => publicKeyOf(svix.publicKey), { message: /, got a public key, which signs nothing$/ })
})

t.test('a receiver with the reference library verifies what a generated secret signed', async (t) => {
  const secret = generateSecret()
  const body = '{"type":"job.completed","data":{"text":"grüße ✓"}}'
  t.strictSame(new Webhook(secret).verify(body, headersFor(secret, body)), JSON.parse(body))
})

t.test('Node verifies what a generated private key signed, with its public key', async (t) => {
  const key = generatePrivateKey()
  const body = '{"text":"grüße ✓"}'
  const { 'webhook-id': id, 'webhook-timestamp': time, 'webhook-signature': header } = headersFor(key, body)
  const x = Buffer.from(publicKeyOf(key).slice('whpk_'.length), 'base64').toString('base64url')
  const publicKey = createPublicKey({ key: { kty: 'OKP', crv: 'Ed25519', x }, format: 'jwk' })
  const signature = Buffer.from(header.slice('v1a,'.length), 'base64')
  t.ok(verify(null, Buffer.from(`${id}.${time}.${body}`), publicKey, signature))
  t.notOk(verify(null, Buffer.from(`${id}.${time}.${body} `), publicKey, signature))
})

t.test('a changed body does not verify', async (t) => {
  const secret = generateSecret()
  const headers = headersFor(secret, '{"a":1}')
  t.throws(() => new Webhook(secret).verify('{"a":2}', headers), { message: 'No matching signature found' })
})

t.test('while a key rotates, of either kind, there is a signature for each in the order given', async (t) => {
  const [old, next, other] = [generateSecret(), generateSecret(), generateSecret()]
  const body = '{"rotating":true}'
  const headers = headersFor(`${old}, ${next} ,${svix.seed}`, body)
  t.match(headers['webhook-signature'], /^v1,\S{44} v1,\S{44} v1a,\S{88}$/)
  t.strictSame(new Webhook(old).verify(body, headers), { rotating: true })
  t.strictSame(new Webhook(next).verify(body, headers), { rotating: true })
  t.throws(() => new Webhook(other).verify(body, headers))
})

t.test(
  'a tenant with keys of its own is signed for with these only, every other with those for all',
  async (t) => {
    const keys = `${secretOf(32)},acme:${svix.seed},acme:${svix.pair},umbrella:${secretOf(24)}, ${secretOf(64)}`
    t.strictSame(kindsOf(keys, 'acme'), ['private', 'private'])
    t.strictSame(
      keysOf(keys, 'umbrella').map(({ symmetricKeySize }) => symmetricKeySize),
      [24],
    )
    for (const tenant of ['default', '', 'ACME', 'constructor', '__proto__']) {
      t.strictSame(
        keysOf(keys, tenant).map(({ symmetricKeySize }) => symmetricKeySize),
        [32, 64],
      )
    }
  },
)

t.test('without keys for all, a tenant that has none is left without', async (t) => {
  t.strictSame(keysOf(`acme:${secretOf(32)}`, 'default'), [])
})

t.test('a key is made once, not for each signature', async (t) => {
  const keys = parseSigningKeys(`${secretOf(32)},${svix.seed}`)
  for (const [index, key] of keys.of('default').entries()) t.equal(keys.of('other')[index], key)
})

t.test('generated keys differ', async (t) => {
  t.not(generateSecret(), generateSecret())
  t.not(generatePrivateKey(), generatePrivateKey())
})

t.test('a tenant has at most 16 keys', async (t) => {
  const many = (count: number) => Array.from({ length: count }, () => generateSecret()).join(',')
  t.equal(keysOf(many(16)).length, 16)
  t.equal(keysOf(`${many(16)},acme:${generateSecret()}`).length, 16)
  t.throws(() => parseSigningKeys(many(17)), {
    message: 'Expected at most 16 keys for one tenant, got 17',
  })
})

t.test('a bad key is named by its position and its fault, and never shown', async (t) => {
  const letters = Buffer.alloc(24, 7).toString('base64')
  const halves = `whsk_${Buffer.alloc(64, 7).toString('base64')}`
  const faults = [
    ['', 1, 'nothing'],
    [`${secretOf(32)},`, 2, 'nothing'],
    ['acme:', 1, 'nothing'],
    [letters, 1, 'another prefix'],
    [`${secretOf(32)},acme:${letters}`, 2, 'another prefix'],
    [`acme:umbrella:${secretOf(32)}`, 1, 'another prefix'],
    [`${secretOf(32)},${svix.publicKey}`, 2, 'a public key, which signs nothing'],
    [`:${secretOf(32)}`, 1, 'a tenant that is empty or has spaces'],
    [`ac me:${secretOf(32)}`, 1, 'a tenant that is empty or has spaces'],
    [`whsec_${letters}!`, 1, 'text that is not padded base64'],
    [`whsec_${letters}\n${letters}`, 1, 'text that is not padded base64'],
    [secretOf(32).slice(0, -1), 1, 'text that is not padded base64'],
    [privateKeyOf(32).slice(0, -1), 1, 'text that is not padded base64'],
    ['whsec_', 1, 'whsec_ of 0 bytes that are no key'],
    [secretOf(23), 1, 'whsec_ of 23 bytes that are no key'],
    [`${secretOf(24)},${secretOf(65)}`, 2, 'whsec_ of 65 bytes that are no key'],
    ['whsk_', 1, 'whsk_ of 0 bytes that are no key'],
    [privateKeyOf(31), 1, 'whsk_ of 31 bytes that are no key'],
    [privateKeyOf(33), 1, 'whsk_ of 33 bytes that are no key'],
    [halves, 1, 'whsk_ of 64 bytes that are no key'],
  ] as const
  for (const [text, position, fault] of faults) {
    t.throws(() => parseSigningKeys(text), {
      message:
        'Expected whsec_<base64 of 24 to 64 bytes> or whsk_<base64 of 32 bytes>, ' +
        `a tenant's own after <tenant>:, as key ${position}, got ${fault}`,
    })
  }
})
