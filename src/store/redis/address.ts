/** What every node of a cluster wants to be told. */
interface Login {
  readonly username?: string
  readonly password?: string
  readonly tls?: object
}

const CLUSTER_SCHEME = /^redis(s?)\+cluster:\/\//

/** What `REDIS_URL` says: where to connect. Throws an Error that says what was expected; it never shows a password. */
export type RedisAddress =
  | { readonly kind: 'socket'; readonly path: string }
  | { readonly kind: 'single'; readonly url: string }
  | { readonly kind: 'cluster'; readonly seeds: readonly Seed[]; readonly options: Login }

export interface Seed {
  readonly host: string
  readonly port: number
}

/** Reads `redis://…`, `rediss://…`, `unix:///path` or `redis+cluster://[user:password@]host:port,host:port,…`. */
export function parseAddress(text: string): RedisAddress {
  const expected = 'Expected redis://host, rediss://host, redis+cluster://host:port,… or unix:///path'
  if (/^unix:\/\/\/./.test(text)) return { kind: 'socket', path: text.slice('unix://'.length) }
  const cluster = CLUSTER_SCHEME.exec(text)
  if (cluster) return parseCluster(text.slice(cluster[0].length), cluster[1] === 's', expected)
  const url = URL.canParse(text) ? new URL(text) : undefined
  if ((url?.protocol === 'redis:' || url?.protocol === 'rediss:') && url.hostname !== '') {
    return { kind: 'single', url: text }
  }
  throw new Error(`${expected}, got ${url ? `${url.protocol} with something else` : 'no URL'}`)
}

function parseCluster(rest: string, isTls: boolean, expected: string): RedisAddress {
  const at = rest.lastIndexOf('@') + 1
  const [credentials, hosts] = [rest.slice(0, at), rest.slice(at).replace(/\/$/, '')]
  const seeds = hosts.split(',').map((host) => {
    const url = URL.canParse(`redis://${host}`) ? new URL(`redis://${host}`) : undefined
    if (!url?.hostname || url.pathname !== '' || url.search !== '')
      throw new Error(`${expected}, got a cluster whose hosts cannot be read`)
    return { host: url.hostname.replace(/^\[|\]$/g, ''), port: Number(url.port || 6379) }
  })
  if (!URL.canParse(`redis://${credentials}host`)) throw new Error(`${expected}, got unreadable credentials`)
  const { username, password } = new URL(`redis://${credentials}host`)
  return {
    kind: 'cluster',
    seeds,
    options: {
      ...(username && { username: decodeURIComponent(username) }),
      ...(password && { password: decodeURIComponent(password) }),
      ...(isTls && { tls: {} }),
    },
  }
}
