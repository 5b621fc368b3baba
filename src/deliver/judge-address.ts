import { isIP } from 'node:net'
import ipaddr from 'ipaddr.js'

type Address = ipaddr.IPv4 | ipaddr.IPv6
type Cidr = [Address, number]

/** Says which IP addresses may be reached. */
export interface AddressJudge {
  isAllowed: (address: string) => boolean
  /** Why the host may not be reached, by the first of its addresses that may not; undefined when it may. */
  refusal: (host: string, addresses: readonly string[]) => string | undefined
}

/** All that IANA has opened of IPv6; ipaddr.js calls unicast whatever it does not know. */
const GLOBAL_IPV6 = ipaddr.parseCIDR('2000::/3')

/**
 * The IPv6 prefixes that stand for an IPv4 address, and the byte it starts at. In the others that do, nothing is public:
 * IPv4-compatible ::/96, Teredo, and 64:ff9b:1::/48 (RFC 8215), where only its network knows at which byte.
 */
const EMBEDDED_IPV4: readonly { prefix: Cidr; start: number }[] = [
  { prefix: ipaddr.parseCIDR('::ffff:0:0/96'), start: 12 }, // IPv4-mapped, RFC 4291 section 2.5.5.2
  { prefix: ipaddr.parseCIDR('64:ff9b::/96'), start: 12 }, // NAT64, RFC 6052 section 2.1
  { prefix: ipaddr.parseCIDR('2002::/16'), start: 2 }, // 6to4, RFC 3056 section 2
]

/**
 * Public by its number, and yet answered by Azure to each virtual machine, with what is only for that one.
 *
 * @see https://learn.microsoft.com/en-us/azure/virtual-network/what-is-ip-address-168-63-129-16
 */
const AZURE_HOST = '168.63.129.16'

const KINDS: Readonly<Record<string, string>> = {
  broadcast: 'the broadcast address',
  carrierGradeNat: 'a carrier-grade NAT address',
  linkLocal: 'a link-local address',
  loopback: 'a loopback address',
  multicast: 'a multicast address',
  private: 'a private address',
  teredo: 'a Teredo address',
  uniqueLocal: 'a unique local address',
  unspecified: 'an unspecified address',
}

/**
 * Makes the judge of addresses. One may be reached when it is public unicast, or in `allow`; an IPv6 address that
 * carries an IPv4 address is judged as that one.
 *
 * @param allow CIDRs that may be reached although they are not public; a bare address is a CIDR of one
 * @param isDiscreet whether a refusal is silent about what a name resolves to: that is for this network to know
 * @throws an Error for an entry of `allow` that is no CIDR
 * @see https://www.iana.org/assignments/iana-ipv4-special-registry
 * @see https://www.iana.org/assignments/iana-ipv6-special-registry
 */
export function createAddressJudge(allow: readonly string[], isDiscreet = false): AddressJudge {
  const allowed = allow.map(parseCidr)
  const isListed = (address: Address) => allowed.some((cidr) => isWithin(address, cidr))

  function refusal(host: string, addresses: readonly string[]): string | undefined {
    for (const address of addresses.flatMap(endsOf)) {
      const kind = isListed(address) ? undefined : specialKind(address)
      if (kind === undefined) continue
      const found = address.toString()
      if (isDiscreet && found !== host) return hiddenRefusal(host)
      const bits = address.kind() === 'ipv4' ? 32 : 128
      const what = found === host ? `is ${kind}` : `resolves to ${found}, ${kind}`
      return `${host} ${what}; QUARTET_CALLBACK_ALLOW=${found}/${bits} allows it`
    }
    return undefined
  }

  return { isAllowed: (address) => endsOf(address).every(isListed), refusal }
}

/** The same for a name that does not resolve and one that resolves to what may not be reached. */
export function hiddenRefusal(host: string): string {
  return `${host} does not resolve to public addresses`
}

function parseCidr(text: string): Cidr {
  const [address = '', bits, ...rest] = text.split('/')
  const width = { 0: -1, 4: 32, 6: 128 }[isIP(address)] ?? -1
  const length = bits === undefined ? width : /^\d{1,3}$/.test(bits) ? Number(bits) : -1
  if (length < 0 || length > width || rest.length > 0) {
    throw new Error(`Expected a CIDR such as 10.0.0.0/8, got ${JSON.stringify(text)}`)
  }
  return [ipaddr.parse(address), length]
}

/** The addresses that traffic to this one may end up at: all must be good. */
function endsOf(text: string): Address[] {
  const address = ipaddr.parse(text.replace(/%.*$/, '')) // without the zone of a link-local address
  const embedded = EMBEDDED_IPV4.find(({ prefix }) => isWithin(address, prefix))
  if (embedded) return [ipv4At(address, embedded.start)]
  return isIsatap(address) ? [address, ipv4At(address, 12)] : [address]
}

/** In any prefix, its last four bytes are an IPv4 address (RFC 5214 section 6.1). */
function isIsatap(address: Address): boolean {
  const [flags = 0, ...rest] = address.toByteArray().slice(8, 12)
  return (flags & ~0x02) === 0 && Buffer.from(rest).toString('hex') === '005efe'
}

function ipv4At(address: Address, start: number): Address {
  return ipaddr.fromByteArray(address.toByteArray().slice(start, start + 4))
}

/** What kind of special-purpose address this is; undefined for a public one. */
function specialKind(address: Address): string | undefined {
  if (address.toString() === AZURE_HOST) return "the address of Azure's host"
  const range = address.range()
  if (range !== 'unicast') return KINDS[range] ?? 'a special-purpose address'
  return address.kind() === 'ipv4' || isWithin(address, GLOBAL_IPV6) ? undefined : 'a special-purpose address'
}

function isWithin(address: Address, [network, bits]: Cidr): boolean {
  return address.kind() === network.kind() && address.match(network, bits)
}
