import { createHmac } from 'node:crypto'
import t from 'tap'
import { UnsecuredJWT, generateKeyPair, SignJWT } from 'jose'
import { audience, issuer, startIssuer } from '../issuer.ts'
import { startKeyedGateway, withKey } from '../keys.ts'
import { all, get, isProblem, openSocket, piecesOf, submit } from './clients.ts'

/* docs/PROTOCOL.md "Who may do what": JWTs of the operator's own issuer. */

const types = { idle: { steps: ['idle'] } }
const issuing = await startIssuer(t)
await issuing.addKey('one', 'ES256')
const env = { QUARTET_AUTH: 'keys,jwt', ...issuing.env }
const gateway = await startKeyedGateway(t, types, { env })
const everything = 'jobs:write jobs:read jobs:cancel admin'
const bearing = async (claims: object) => withKey(gateway, await issuing.sign({ ...claims }))

t.test('a token of the issuer is for the tenant and the scopes in it', async (t) => {
  const acme = await bearing({ scope: `openid ${everything} jobs:all` })
  const { links } = await submit(acme, { type: 'idle' })
  t.equal((await get(acme, links.self)).status, 200)
  t.equal((await get(acme, '/metrics')).status, 200)
  const umbrella = await bearing({ tenant: 'umbrella', scope: everything })
  await isProblem(t, await get(umbrella, links.self), 'not_found')
  const reader = await bearing({ scope: ['profile', 'jobs:read'] })
  t.equal((await get(reader, links.self)).status, 200)
  await isProblem(t, await reader.post({ type: 'idle' }), 'missing_scope')
  for (const scope of [undefined, '', null, 7, { 'jobs:read': true }])
    await isProblem(t, await get(await bearing({ scope }), links.self), 'missing_scope')
  const { key } = await gateway.createKey({ tenant: 'acme' })
  t.equal((await get(withKey(gateway, key), links.self)).status, 200, 'and keys are good beside it')
})

t.test('the claims are those that the operator names', async (t) => {
  const names = {
    QUARTET_JWT_TENANT_CLAIM: 'https://example.com/org',
    QUARTET_JWT_SCOPE_CLAIM: 'permissions',
  }
  const other = await startKeyedGateway(t, types, { env: { ...env, ...names } })
  const token = await issuing.sign({ 'https://example.com/org': 'umbrella', permissions: ['jobs:write'] })
  t.equal((await withKey(other, token).post({ type: 'idle' })).status, 202)
  await isProblem(t, await get(withKey(other, token), '/jobs'), 'missing_scope')
})

t.test('a token that is for others, or is over, is refused', async (t) => {
  const now = Math.floor(Date.now() / 1_000)
  for (const claims of [
    { iss: 'https://other.example.com/' },
    { iss: undefined },
    { aud: 'https://other.example.com' },
    { aud: undefined },
    { exp: now - 60 },
    { exp: undefined },
    { nbf: now + 60 },
  ]) {
    const response = await get(await bearing({ scope: everything, ...claims }), '/jobs')
    await isProblem(t, response, 'unauthorized')
    t.equal(response.headers.get('www-authenticate'), 'Bearer error="invalid_token"')
  }
  const several = await bearing({ scope: everything, aud: ['x', audience] })
  t.equal((await get(several, '/jobs')).status, 200)
  for (const tenant of [undefined, '', 'a b', 'x'.repeat(65), 7, ['acme'], 'a:b'])
    await isProblem(t, await get(await bearing({ scope: everything, tenant }), '/jobs'), 'forbidden')
})

t.test('a token that the issuer did not sign is refused, however it is signed', async (t) => {
  const claims = { iss: issuer, aud: audience, sub: 'eve', tenant: 'acme', scope: everything }
  const exp = Math.floor(Date.now() / 1_000) + 300
  const payload = { ...claims, exp }
  const encode = (value: object) => Buffer.from(JSON.stringify(value)).toString('base64url')
  const good = await issuing.sign({ scope: everything })
  const [head = '', , signature = ''] = good.split('.')
  const publicKey = await issuing.publicKey('one')

  /** HMAC with what everybody can know of the key. */
  const confused = [JSON.stringify(publicKey), publicKey.x ?? '', publicKey.y ?? '', ''].map((secret) => {
    const body = `${encode({ alg: 'HS256', kid: 'one' })}.${encode(payload)}`
    return `${body}.${createHmac('sha256', secret).update(body).digest('base64url')}`
  })
  const { privateKey } = await generateKeyPair('ES256')
  const sign = (header: object) =>
    new SignJWT(payload).setProtectedHeader({ alg: 'ES256', ...header }).sign(privateKey)
  const forged = [
    ...confused,
    await sign({ kid: 'one' }),
    await sign({ kid: 'another' }),
    await sign({ kid: '../../etc/passwd' }),
    await sign({ jku: 'http://127.0.0.1:1/', jwk: {} }),
    `${new UnsecuredJWT(payload).encode()}A`,
    `${encode({ alg: 'none' })}.${encode(payload)}.AA`,
    `${head}.${encode(payload)}.${signature}`,
    `${good.slice(0, -4)}AAAA`,
    `${head}.e30.${signature}`,
    'a.b.c',
  ]
  for (const token of forged) await isProblem(t, await get(withKey(gateway, token), '/jobs'), 'unauthorized')
  const unsecured = new UnsecuredJWT(payload).encode()
  await isProblem(t, await get(withKey(gateway, unsecured), '/jobs'), 'unauthorized')
  t.equal((await get(withKey(gateway, good), '/jobs')).status, 200)
})

for (const alg of ['RS256', 'PS256', 'ES384', 'EdDSA']) {
  t.test(`it may be signed with ${alg}`, async (t) => {
    const own = await startIssuer(t)
    await own.addKey('k', alg)
    const other = await startKeyedGateway(t, types, { env: { ...env, ...own.env } })
    const token = await own.sign({ scope: 'jobs:read' }, { kid: 'k', alg })
    t.equal((await get(withKey(other, token), '/jobs')).status, 200)
  })
}

t.test('a token that was seen is not looked at again, and its keys are asked for once', async (t) => {
  const own = await startIssuer(t)
  await own.addKey('one', 'ES256')
  const other = await startKeyedGateway(t, types, { env: { ...env, ...own.env } })
  const token = await own.sign({ scope: 'jobs:read' })
  for (let n = 0; n < 20; n++) t.equal((await get(withKey(other, token), '/jobs')).status, 200)
  t.equal(
    (await get(withKey(other, await own.sign({ scope: 'jobs:read', sub: 'bob' })), '/jobs')).status,
    200,
  )
  t.equal(own.asked(), 1)
})

t.test('without the issuer’s keys nobody is let in, nor turned away for good', async (t) => {
  const own = await startIssuer(t)
  await own.addKey('one', 'ES256')
  own.goAway()
  const other = await startKeyedGateway(t, types, { env: { ...env, ...own.env } })
  const token = await own.sign({ scope: 'jobs:read' })
  const response = await get(withKey(other, token), '/jobs')
  t.match(response.headers.get('retry-after'), /^\d+$/)
  await isProblem(t, response, 'authentication_unavailable')
  const { send, closed } = await openSocket(t, other.url, { init: false })
  send({ op: 'init', token })
  t.equal(await closed, 4503)
  own.comeBack()
  t.equal((await get(withKey(other, token), '/jobs')).status, 200)
})

t.test('what is open by a token ends with it', async (t) => {
  // Five seconds are granted for clocks that differ.
  const exp = Math.floor(Date.now() / 1_000) - 3
  const token = await issuing.sign({ scope: everything, exp })
  const owner = withKey(gateway, token)
  const { links } = await submit(owner, { type: 'idle' })
  const socket = await openSocket(t, gateway.url, { token })
  const stream = await get(owner, links.events)
  t.equal(stream.status, 200)
  t.match((await all(piecesOf(stream, '\n'))).join('\n'), /"job\.queued"/)
  t.equal(await socket.closed, 4401)
  await isProblem(t, await get(owner, links.self), 'unauthorized')
})

t.test('a job token that it issued ends with it too', async (t) => {
  const exp = Math.floor(Date.now() / 1_000) + 60
  const owner = withKey(gateway, await issuing.sign({ scope: everything, exp }))
  const { job_id, links } = await submit(owner, { type: 'idle' })
  const given = await fetch(`${gateway.url}/jobs/${job_id}/tokens`, {
    method: 'POST',
    headers: owner.headers,
  })
  const { token, expires_at } = (await given.json()) as { token: string; expires_at: string }
  t.equal(Date.parse(expires_at), (exp + 5) * 1_000)
  t.equal((await get(gateway, `${links.self}?token=${token}`)).status, 200)
})
