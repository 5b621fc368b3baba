import { createHmac } from 'node:crypto'
import { Webhook } from 'standardwebhooks'
import t from 'tap'
import { createVerifier } from '../clients/typescript/verify.ts'
import {
  generatePrivateKey,
  generateSecret,
  parseSigningKeys,
  publicKeyOf,
  sign,
} from '../src/deliver/signature.ts'
import {
  attemptOf,
  body,
  genuine,
  id,
  now,
  pairs,
  privateKey,
  refuses,
  secret,
  startPython,
  startVerifiers,
  type Kind,
  type Parts,
} from './verifiers.ts'

/* The verifiers of clients/, each held to the same: whatever the gateway signs is genuine, and nothing else is. */

/** The last letter before the padding has bits that say nothing: sets one of them. */
function sameBytes(base64: string): string {
  const letters = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/'
  return base64.replace(/.(?==+$)/, (letter) => letters[letters.indexOf(letter) + 1] ?? '')
}

for (const each of startVerifiers(t)) {
  const { language, verify, kinds } = each

  t.test(`${language}: what the gateway signs is genuine, and its id is told`, async (t) => {
    for (const kind of kinds) t.strictSame(await verify(attemptOf(genuine(kind))), { id })
  })

  t.test(`${language}: what the reference library signs is genuine`, async (t) => {
    const signature = new Webhook(secret).sign(id, new Date(now * 1_000), body)
    t.strictSame(await verify(attemptOf({ ...genuine('v1'), signature })), { id })
  })

  t.test(`${language}: the examples of the reference implementations are genuine`, async (t) => {
    const example = {
      id: 'msg_p5jXN8AQM9LWM0D4loKWxJek',
      timestamp: '1614265330',
      body: '{"test": 2432232314}',
      now: 1614265330,
    }
    const signed: Record<Kind, Pick<Parts, 'keys' | 'signature'>[]> = {
      v1: [
        {
          keys: 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw',
          signature: 'v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=',
        },
      ],
      v1a: [
        {
          keys: 'whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4=',
          signature:
            'v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+m7TBAg==',
        },
        {
          keys: publicKeyOf('whsk_VEVTVFNJR05JTkdLRVlET05PVFVTRVRISVNGT1JBTlk='),
          signature:
            'v1a,tQ9V2XOqn7jL/DQenEFpqIugdBVtiMmER5mhSkXBNwM0mkATuDe6KYYUuxqtaiHeYGb7KaaBRdM5WqyeFiL8Ag==',
        },
      ],
    }
    for (const kind of kinds) {
      for (const parts of signed[kind]) {
        t.strictSame(await verify(attemptOf({ ...example, ...parts })), { id: example.id })
      }
    }
  })

  t.test(`${language}: the body is bytes, whether they are text or not`, async (t) => {
    const bytes = Buffer.from([0xef, 0xbb, 0xbf, 0xff, 0x00, 0x0d, 0x0a])
    const mac = createHmac('sha256', Buffer.from(secret.slice('whsec_'.length), 'base64'))
      .update(`${id}.${now}.`)
      .update(bytes)
    const parts = { ...genuine('v1'), signature: `v1,${mac.digest('base64')}`, body: bytes }
    t.strictSame(await verify(attemptOf(parts)), { id })
    t.match(await verify(attemptOf({ ...parts, body: bytes.subarray(0, -1) })), { reason: 'no_match' })
  })

  t.test(`${language}: another body, id, time or key is refused`, async (t) => {
    await refuses(t, each, 'no_match', ({ body }) => ({ body: `${body.toString()} ` }))
    await refuses(t, each, 'no_match', () => ({ body: '' }))
    await refuses(t, each, 'no_match', ({ id }) => ({ id: `${id}0` }))
    await refuses(t, each, 'no_match', ({ timestamp }) => ({ timestamp: String(Number(timestamp) - 1) }))
    await refuses(t, each, 'no_match', ({ timestamp }) => ({ timestamp: `0${timestamp}` }))
    await refuses(t, each, 'no_match', () => ({ keys: generateSecret() }))
    if (kinds.includes('v1a')) {
      await refuses(t, each, 'no_match', () => ({ keys: publicKeyOf(generatePrivateKey()) }))
    }
  })

  t.test(`${language}: no part of what was signed passes for another part`, async (t) => {
    const text = `{"a":"b.${now}.{}"}`
    const signature = sign(parseSigningKeys(secret).of('default'), { id, timestamp: now, body: text })
    const content = `${id}.${now}.${text}`
    const stops = [...content.matchAll(/\./g)].map(({ index }) => index)
    const splits = stops.flatMap((one) => stops.filter((two) => two > one).map((two) => [one, two] as const))
    for (const [one, two] of splits) {
      const cut = [content.slice(0, one), content.slice(one + 1, two), content.slice(two + 1)]
      const [first = '', timestamp = '', body = ''] = cut
      const verdict = await verify(attemptOf({ ...genuine('v1'), id: first, timestamp, signature, body }))
      const isAsSigned = first === id && body === text
      t.match(verdict, isAsSigned ? { id } : { reason: /^(malformed_header|too_old)$/ })
    }
    t.ok(splits.length > 3)
  })

  t.test(
    `${language}: a signature that is cut, empty, of another version or no signature is refused`,
    async (t) => {
      await refuses(t, each, 'no_match', ({ signature }) => ({ signature: signature.slice(0, -1) }))
      await refuses(t, each, 'no_match', ({ signature }) => ({ signature: signature.replace(/=+$/, '') }))
      await refuses(t, each, 'no_match', ({ signature }) => ({ signature: `${signature}=` }))
      await refuses(t, each, 'no_match', ({ signature }) => ({
        signature: signature.replace(/^v1a?,/, 'v2,'),
      }))
      await refuses(t, each, 'no_match', ({ signature }) => ({ signature: signature.replace(/^v1a?,/, '') }))
      await refuses(t, each, 'no_match', ({ signature }) => ({ signature: signature.replace(',', '=') }))
      await refuses(t, each, 'no_match', ({ signature }) => ({ signature: signature.replace(',', ', ') }))
      await refuses(t, each, 'no_match', ({ signature }) => ({ signature: signature.toUpperCase() }))
      const other = { v1: 'v1a,', v1a: 'v1,' }
      for (const kind of kinds) {
        const parts = genuine(kind)
        const signature = parts.signature.replace(/^v1a?,/, other[kind])
        t.match(await verify(attemptOf({ ...parts, signature })), { reason: 'no_match' })
      }
      for (const signature of [
        'v1',
        'v1,',
        'v1a,',
        ',',
        ' ',
        '   ',
        '=',
        'v1,AAAA',
        'v1a,AAAA',
        '\udce4\u00e4',
      ]) {
        await refuses(t, each, 'no_match', () => ({ signature }))
      }
    },
  )

  t.test(`${language}: base64 that says the same in another way is refused`, async (t) => {
    await refuses(t, each, 'no_match', ({ signature }) => ({ signature: sameBytes(signature) }))
    for (const kind of kinds) {
      const parts = genuine(kind)
      const verdict = await verify(attemptOf({ ...parts, keys: sameBytes(parts.keys) }))
      t.match(verdict, { fault: /as key 1, got something else$/ })
    }
  })

  t.test(`${language}: one of several signatures is enough, up to the sixteenth`, async (t) => {
    const decoys = (count: number) => Array.from({ length: count }, () => 'v1,Z2FyYmFnZQ==').join(' ')
    for (const kind of kinds) {
      const parts = genuine(kind)
      for (const signature of [
        `${parts.signature} ${parts.signature}`,
        `v2,AAAA v1,${'A'.repeat(43)}= ${parts.signature} v1a,${'A'.repeat(86)}==`,
        `${decoys(15)} ${parts.signature}`,
      ]) {
        t.strictSame(await verify(attemptOf({ ...parts, signature })), { id })
      }
    }
    await refuses(t, each, 'no_match', ({ signature }) => ({ signature: `${decoys(16)} ${signature}` }))
  })

  t.test(`${language}: one of several keys is enough`, async (t) => {
    for (const kind of kinds) {
      const parts = genuine(kind)
      for (const keys of [
        `${parts.keys}, ${generateSecret()}\n`,
        `${generateSecret()} ,${parts.keys}`,
        `${parts.keys},${parts.keys}`,
      ]) {
        t.strictSame(await verify(attemptOf({ ...parts, keys })), { id })
      }
    }
  })

  t.test(`${language}: what is no key is named by its position, and not shown`, async (t) => {
    const cut = (key: string) => key.slice(0, -1)
    const publicKey = pairs.v1a.verifying
    const bad = [
      '',
      'hunter2',
      'whsec_',
      'whpk_',
      'whsec_hunter2!',
      `acme:${secret}`,
      secret.slice('whsec_'.length),
      cut(secret),
      cut(publicKey),
      `whpk_${Buffer.alloc(31).toString('base64')}`,
      privateKey,
    ]
    for (const keys of bad) {
      const expected = 'Expected whsec_<base64> or whpk_<base64 of 32 bytes> as key'
      const { headers, body, now } = attemptOf(genuine('v1'))
      t.strictSame(await verify({ keys, headers, body, now }), { fault: `${expected} 1, got something else` })
      t.strictSame(await verify({ keys: `${secret},${keys}`, headers, body, now }), {
        fault: `${expected} 2, got something else`,
      })
    }
  })
}

t.test('TypeScript: a body that somebody has parsed is a mistake of the receiver’s', async (t) => {
  const { keys, headers, body } = attemptOf(genuine('v1'))
  for (const parsed of [JSON.parse(Buffer.from(body).toString()), [1], null, undefined] as Uint8Array[]) {
    t.throws(() => createVerifier(keys)(new Map(headers), parsed), {
      name: 'TypeError',
      message: 'Expected the body as it came, bytes or text, got what somebody has parsed',
    })
  }
})

t.test('Python: without the package for it, a public key is refused, and a secret is not', async (t) => {
  const verify = startPython(t, ['--without-cryptography'])
  t.strictSame(await verify(attemptOf(genuine('v1a'))), {
    fault: 'Expected the package cryptography, which whpk_ keys need, got none',
  })
  t.strictSame(await verify(attemptOf(genuine('v1'))), { id })
})
