import { once } from 'node:events'
import { createServer, type RequestListener } from 'node:http'
import type { AddressInfo } from 'node:net'
import { exportJWK, generateKeyPair, SignJWT, type JWTPayload } from 'jose'
import type { Test } from 'tap'

/** An HTTP server on loopback that ends with the test. @returns its URL, without a path */
export async function serve(t: Test, listener: RequestListener): Promise<string> {
  const server = createServer(listener).listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => {
    server.closeAllConnections()
    server.close()
  })
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`
}

export const issuer = 'https://issuer.example.com/'
export const audience = 'https://jobs.example.com'

/** An issuer of JWTs that shows its keys. */
export async function startIssuer(t: Test) {
  const pairs = new Map<string, Awaited<ReturnType<typeof generateKeyPair>>>()
  let isAway = false
  let asked = 0
  const url = await serve(t, (_request, response) => {
    asked++
    if (isAway) response.writeHead(500)
    const shown = [...pairs].map(async ([kid, { publicKey }]) => ({ ...(await exportJWK(publicKey)), kid }))
    void Promise.all(shown).then((keys) => response.end(JSON.stringify({ keys })))
  })

  return {
    jwksUrl: `${url}/jwks.json`,
    env: {
      QUARTET_JWT_JWKS_URL: `${url}/jwks.json`,
      QUARTET_JWT_ISSUER: issuer,
      QUARTET_JWT_AUDIENCE: audience,
    },
    asked: () => asked,
    goAway: () => (isAway = true),
    comeBack: () => (isAway = false),
    publicKey: async (kid: string) => exportJWK(pairs.get(kid)!.publicKey),

    async addKey(kid: string, algorithm: string) {
      pairs.set(kid, await generateKeyPair(algorithm, { extractable: true }))
    },

    /** A token that is all right, but for what is given. */
    async sign(
      claims: JWTPayload = {},
      { kid = 'one', alg = 'ES256' }: { kid?: string; alg?: string } = {},
    ): Promise<string> {
      const now = Math.floor(Date.now() / 1_000)
      const payload = { iss: issuer, aud: audience, sub: 'ada', exp: now + 300, tenant: 'acme', ...claims }
      return new SignJWT(payload).setProtectedHeader({ alg, kid }).sign(pairs.get(kid)!.privateKey)
    },
  }
}
