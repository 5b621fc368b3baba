import type { IncomingHttpHeaders } from 'node:http'
import type { FastifyBaseLogger } from 'fastify'
import type { Config } from '../config.ts'
import type { Store } from '../store/store.ts'
import { anonymous, unauthorized, type Identity } from './identity.ts'
import { createAuthorizer } from './ask-authorizer.ts'
import { boundFailures } from './failures.ts'
import { createJobTokens, type JobTokens } from './job-token.ts'
import { createKeyRing } from './key-ring.ts'
import { createVerifyJwt, isJwt } from './verify-jwt.ts'

/** What somebody brings to show who he is. */
export interface Asking {
  readonly method: string
  /** The route's pattern, and what stands in the path for its parameters. */
  readonly route: string
  readonly params: Readonly<Record<string, string>>
  readonly headers: IncomingHttpHeaders
  /** What came in a WebSocket's `init`; it goes before the headers. */
  readonly token?: string | undefined
  /** What came as `?token=`, where a route takes it; it goes before the headers too, and must be a job token. */
  readonly urlToken?: unknown
  /** Where it comes from; empty if it is gone. Only read where it is needed. */
  readonly address: string
}

/** Who is who, and until when. */
export interface Access {
  /**
   * Who asks; at once where that is remembered.
   * @throws Problem `unauthorized`, or rejects with it, with `forbidden`, with `authentication_unavailable`, or with the
   *   driver's error when the store is away
   */
  identify(asking: Asking): Identity | Promise<Identity>
  readonly watch: Watch
  readonly tokens: Pick<JobTokens, 'issue'>
  /** Hears of what is revoked until the signal ends it. */
  keepUp(signal: AbortSignal): Promise<void>
  /** Whether the authorizer is left in peace, as it does not answer. */
  isAuthorizerAway(): boolean
  close(): Promise<void>
}

/** Calls `end` when an identity is no more: its key was revoked, or its time is over. @returns stops watching */
export type Watch = (identity: Identity, end: () => void) => () => void

export interface AccessParts {
  readonly config: Pick<
    Config,
    | 'auth'
    | 'failedCredentials'
    | 'authorizerUrl'
    | 'jwtAudience'
    | 'jwtIssuer'
    | 'jwtJwksUrl'
    | 'jwtScopeClaim'
    | 'jwtTenantClaim'
  >
  readonly store: Pick<Store, 'apiKeys' | 'now'>
  readonly log: FastifyBaseLogger
}

/** Timers hold no more; nothing here lasts as long. */
const LONGEST_MS = 86_400_000

/** Whoever the configuration lets in. Each credential is judged by the first that knows its kind. */
export function createAccess({ config, store, log }: AccessParts): Access {
  const { auth, authorizerUrl, failedCredentials } = config
  const keyRing = auth.has('keys') ? createKeyRing({ store, log }) : null
  const tokens = createJobTokens({ store, keyRing })
  const verifyJwt = auth.has('jwt') ? createVerifyJwt(config, store.now) : null
  const authorizer = auth.has('authorizer') ? createAuthorizer({ url: authorizerUrl, log }) : null

  return {
    identify:
      auth.size === 0
        ? () => anonymous
        : failedCredentials === null
          ? identify
          : boundBad(boundFailures(identify, failedCredentials)),

    watch({ expiresAt, keyId }, end) {
      const leftMs = expiresAt === null ? Infinity : expiresAt - store.now()
      const timer = leftMs < LONGEST_MS ? setTimeout(end, leftMs) : undefined
      const unwatch = keyId === null ? undefined : keyRing?.watch(keyId, end)
      return () => {
        clearTimeout(timer)
        unwatch?.()
      }
    },

    tokens,

    async keepUp(signal) {
      if (auth.size === 0) await warnOfKeys()
      await keyRing?.keepUp(signal)
    },

    isAuthorizerAway: () => authorizer?.isOpen() ?? false,

    async close() {
      await authorizer?.close()
    },
  }

  /** Whoever has made keys may think that they are asked for. */
  async function warnOfKeys(): Promise<void> {
    const keys = await store.apiKeys.list().catch(() => [])
    if (keys.length > 0) log.warn('there are API keys, but without QUARTET_AUTH=keys nobody is asked for one')
  }

  /** Whoever brings nothing has brought nothing bad. An authorizer may look at any header. */
  function boundBad(bound: Access['identify']): Access['identify'] {
    return (asking) => {
      const { token, urlToken, headers } = asking
      const isBare = !authorizer && urlToken === undefined && credentialIn(token, headers) === null
      return isBare ? identify(asking) : bound(asking)
    }
  }

  function identify({
    method,
    route,
    params,
    headers,
    token,
    urlToken,
  }: Asking): Identity | Promise<Identity> {
    const credential = urlToken === undefined ? credentialIn(token, headers) : jobTokenIn(urlToken)
    if (credential?.startsWith('qt_')) return tokens.verify(credential)
    if (keyRing && credential?.startsWith('qk_')) return keyRing.verify(credential)
    if (verifyJwt && credential !== null && isJwt(credential)) return verifyJwt(credential)
    if (authorizer) {
      const authorization = token === undefined ? headers.authorization : `Bearer ${token}`
      const path = route.replaceAll(/:(\w+)/g, (_, name: string) => encodeURIComponent(params[name] ?? ''))
      return authorizer.ask({
        method,
        path,
        headers: { ...headers, ...(authorization && { authorization }) },
      })
    }
    if (credential === null) throw unauthorized('Expected the header Authorization: Bearer …', 'Bearer')
    throw unauthorized('The credentials are of no kind that this gateway knows')
  }
}

/** A key has no place in a URL, which is kept in histories and logs. */
function jobTokenIn(urlToken: unknown): string {
  if (typeof urlToken === 'string' && urlToken.startsWith('qt_')) return urlToken
  throw unauthorized('Expected the token of a job in ?token=; keys belong into the header Authorization')
}

/** RFC 6750 section 2.1. A token of a message must be fit for a header too, as that is where it may go. */
function credentialIn(token: string | undefined, { authorization = '' }: IncomingHttpHeaders): string | null {
  if (token === undefined) return /^Bearer +([\w.~+/-]+=*) *$/i.exec(authorization)?.[1] ?? null
  if (/^[\w.~+/-]+=*$/.test(token)) return token
  throw unauthorized('The credentials are of no kind that this gateway knows')
}
