import type { LookupAddress, LookupOptions } from 'node:dns'
import { isIP, type LookupFunction } from 'node:net'
import type { AddressJudge } from './judge-address.ts'

/** Finds all addresses of a host: a name or a literal, which stands for itself. Rejects where there is none. */
export type ResolveHost = (host: string, options?: LookupOptions) => Promise<LookupAddress[]>

const LOOPBACK = ['127.0.0.1', '::1'].map(asFound)

/** Makes {@link ResolveHost} of a `lookup` as `net.connect` takes it. */
export function createResolveHost(lookup: LookupFunction, judge: AddressJudge): ResolveHost {
  /** Loopback whatever DNS says (RFC 6761 section 6.3): the part of it that is allowed, if any is. */
  function loopback() {
    const allowed = LOOPBACK.filter(({ address }) => judge.isAllowed(address))
    return allowed.length > 0 ? allowed : LOOPBACK
  }

  return async (host, options) => {
    if (isIP(host) !== 0) return [asFound(host)]
    if (/(^|\.)localhost\.?$/i.test(host)) return loopback()
    const addresses = await new Promise<LookupAddress[]>((resolve, reject) => {
      lookup(host, { ...options, all: true }, (error, found, family = 0) => {
        if (error) reject(error)
        else resolve(typeof found === 'string' ? [{ address: found, family }] : found)
      })
    })
    if (addresses.length === 0) throw new Error(`Expected an address of ${host}, got none`)
    return addresses
  }
}

function asFound(address: string): LookupAddress {
  return { address, family: isIP(address) }
}
