import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import { isIP, type LookupFunction } from 'node:net'
import ipaddr from 'ipaddr.js'
import type { Test } from 'tap'
import { createLookup } from '../src/deliver/look-up.ts'

/**
 * Addresses; a name among them is a CNAME, and what follows it is that name's. With `hang` there is no answer at all, and
 * none for IPv6 where that is among the addresses.
 */
type Answer = readonly string[] | 'hang'

export interface DnsServer {
  /** Asks the server for both kinds of addresses, and keeps nothing; as `net.connect` takes it. */
  readonly lookup: LookupFunction
  /** How often it was asked for the IPv4 addresses of any name. */
  readonly questions: () => number
}

const A = 1
const CNAME = 5
const AAAA = 28

/**
 * A DNS server on loopback, whose every record has a TTL of 0.
 *
 * @param zone for each name one answer for each time it is asked for in turn, the last one for all that follow
 */
export async function startDnsServer(
  t: Pick<Test, 'teardown'>,
  zone: Readonly<Record<string, readonly Answer[]>>,
): Promise<DnsServer> {
  const asked = new Map<string, number>()
  let questions = 0
  const server = createSocket('udp4', (query, from) => {
    const answer = respond(query)
    if (answer) server.send(answer, from.port, from.address)
  })
  server.bind(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => server.close())

  function respond(query: Buffer): Buffer | null {
    const question = query.subarray(12, query.indexOf(0, 12) + 5)
    const type = question.readUInt16BE(question.length - 4)
    const key = `${readName(question)} ${type}`
    const turn = asked.get(key) ?? 0
    asked.set(key, turn + 1)
    if (type === A) questions++
    const answers = zone[readName(question)]
    const found = answers?.[Math.min(turn, answers.length - 1)] ?? []
    if (found === 'hang' || (type === AAAA && found.includes('hang'))) return null
    const records = recordsOf(
      found.filter((text) => text !== 'hang'),
      type,
    )
    // The query's id; a response, recursion desired and available; NXDOMAIN for what is not in the zone.
    const header = Buffer.concat([query.subarray(0, 2), Buffer.from([0x81, answers ? 0x80 : 0x83])])
    return Buffer.concat([header, uint16(1, records.length, 0, 0), question, ...records])
  }

  return {
    lookup: createLookup([`127.0.0.1:${server.address().port}`]),
    questions: () => questions,
  }
}

function recordsOf(answer: readonly string[], type: number): Buffer[] {
  let owner: Buffer = uint16(0xc00c) // the question's name
  return answer.flatMap((text) => {
    const from = owner
    if (isIP(text) === 0) {
      owner = writeName(text)
      return [record(from, CNAME, owner)]
    }
    const its = isIP(text) === 4 ? A : AAAA
    return its === type ? [record(from, its, Buffer.from(ipaddr.parse(text).toByteArray()))] : []
  })
}

function record(owner: Buffer, type: number, data: Buffer): Buffer {
  return Buffer.concat([owner, uint16(type, 1, 0, 0, data.length), data])
}

function uint16(...values: readonly number[]): Buffer {
  return Buffer.from(values.flatMap((value) => [value >> 8, value & 0xff]))
}

function writeName(name: string): Buffer {
  const labels = name.split('.').flatMap((label) => [Buffer.from([label.length]), Buffer.from(label)])
  return Buffer.concat([...labels, Buffer.alloc(1)])
}

function readName(question: Buffer): string {
  const labels: string[] = []
  for (let at = 0; question[at]; at += (question[at] ?? 0) + 1) {
    labels.push(question.toString('latin1', at + 1, at + 1 + (question[at] ?? 0)))
  }
  return labels.join('.').toLowerCase()
}
