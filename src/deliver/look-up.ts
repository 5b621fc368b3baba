import { lookup as systemLookup, promises, type LookupAddress, type LookupOptions } from 'node:dns'
import { isIP, type LookupFunction } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'
import { callbackify } from 'node:util'

const TIMEOUT_MS = 2_000
const TRIES = 2
/** How long addresses of one kind wait for those of the other: some nameservers never answer when asked for IPv6. */
const OTHER_MS = 500

/** DNS knows no such name, or there is no DNS: the hosts file may. */
const ABSENT = ['ENOTFOUND', 'ENODATA', 'ECONNREFUSED']

/**
 * Makes a `lookup` that asks DNS without Node's threads. `dns.lookup` has four of them for the whole process, and keeps
 * one for as long as a nameserver does not answer: a few names of one sender would hold up everybody's webhooks. It is
 * asked only for what DNS says it does not have. Look-ups of a name that are under way are shared.
 *
 * @param servers `<address>:<port>` of the nameservers; the system's by default
 */
export function createLookup(servers?: readonly string[]): LookupFunction {
  const resolver = new promises.Resolver({ timeout: TIMEOUT_MS, tries: TRIES })
  if (servers) resolver.setServers(servers)
  const underWay = new Map<string, Promise<LookupAddress[]>>()

  return callbackify((host: string, _options: LookupOptions) => share(host))

  function share(host: string): Promise<LookupAddress[]> {
    const known = underWay.get(host)
    if (known) return known
    const asked = find(host).finally(() => underWay.delete(host))
    underWay.set(host, asked)
    return asked
  }

  async function find(host: string): Promise<LookupAddress[]> {
    const asked = [resolver.resolve4(host), resolver.resolve6(host)]
    const late = Promise.any(asked).then(() => delay(OTHER_MS, []))
    const answers = await Promise.allSettled(asked.map((each) => Promise.race([each, late])))
    const found = answers.flatMap((answer) => (answer.status === 'fulfilled' ? answer.value : []))
    if (found.length > 0) return found.map((address) => ({ address, family: isIP(address) }))
    const [failure, other] = answers.flatMap((answer) =>
      answer.status === 'rejected' ? [answer.reason as NodeJS.ErrnoException] : [],
    )
    const isAbsent = [failure, other].every((error) => error && ABSENT.includes(error.code ?? ''))
    if (!isAbsent) throw failure ?? new Error(`Expected an address of ${host}, got none`)
    return new Promise((resolve, reject) => {
      systemLookup(host, { all: true }, (error, addresses) => (error ? reject(error) : resolve(addresses)))
    })
  }
}
