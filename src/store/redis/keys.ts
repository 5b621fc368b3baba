import { createHash } from 'node:crypto'
import type { Callback } from '../deliveries.ts'

/** The names of everything that Quartet keeps in Redis. The braces put it all in one slot of a cluster. */
export function createKeys(prefix = '{quartet}:') {
  return {
    /** hash: record (compact.ts), version, input, trimmed, followers; with a return address the state of its deliveries */
    job: (id: string) => `${prefix}job:${id}`,
    /** list: the events (compact.ts); the first one's seq is `trimmed` + 1 */
    journal: (id: string) => `${prefix}journal:${id}`,
    /** pub/sub channel of a node: what happens to the jobs that it follows, by lines: an id, its envelopes, … (follow.ts) */
    node: (node: string) => `${prefix}live:${node}`,
    /** list: what became of each try of a webhook (delivery-records.ts) */
    tries: (id: string) => `${prefix}tries:${id}`,
    /** sorted set: `<job id>.<seq>` of events that were given up, by when; the job has `dead:<seq>`, their origin */
    dead: (tenant: string) => `${prefix}dead:${tenant}`,
    /** the callback queue, callbacks.lua: sorted set of origins; behind a colon more of each; a channel that wakes */
    callbacks: `${prefix}callbacks`,
    /** sorted set: job ids by when they are to be looked at */
    due: `${prefix}due`,
    /** hash: source → how far it has been applied */
    cursors: `${prefix}cursors`,
    /** sorted set, all scores 0: ids are UUIDv7, so their order is that of creation */
    list: (tenant: string) => `${prefix}jobs:${tenant}`,
    /** string: job id and fingerprint */
    idempotency: (tenant: string, key: string) => `${prefix}idempotency:${tenant}:${digestOf(key)}`,
    /** string: the owner's name */
    lease: (source: string) => `${prefix}lease:${source}`,
    /** hash: node → until when it is here, and JSON of the sources it would take on */
    nodes: `${prefix}nodes`,
    /** sorted set: origins of services whose circuit is open, by until when */
    services: `${prefix}services`,
    /** set: ids of the jobs of a type that wait for their first attempt */
    waiting: (type: string) => `${prefix}waiting:${type}`,
    /** set: those of one tenant among them, where there is a bound on these; no type has a colon in its name */
    tenantWaiting: (type: string, tenant: string) => `${prefix}waiting:${type}:${tenant}`,
    /** hash: type → how many jobs have had their first attempt, or ended without one */
    started: `${prefix}started`,
    /** hash: id of an API key → its JSON, and the count of revocations; a channel that tells of those */
    apiKeys: `${prefix}api-keys`,
    /** string: how many there were in the window that its expiry ends */
    count: (name: string) => `${prefix}count:${digestOf(name)}`,
    /** hash: node → how many places it has, and when it said so */
    places: (name: string) => `${prefix}places:${digestOf(name)}`,
    /** string: what job tokens are signed with */
    tokenSecret: `${prefix}token-secret`,
  }
}

export type Keys = ReturnType<typeof createKeys>

/** What is of any length and any characters, as a part of a key. */
function digestOf(text: string): string {
  return createHash('sha256').update(text).digest('base64url')
}

const terminal = ',job.completed,job.failed,job.canceled,job.expired,'

/** Which events are for the return address, as the scripts read it: `*`, or the types between commas. */
export function filterOf(callback: Callback | null): string {
  if (!callback) return ''
  if (!callback.events) return terminal
  return callback.events.includes('*') ? '*' : `,${callback.events.join(',')},`
}

/** Scheme, host and port: what a circuit is for. An address that is no URL was refused, or fails by itself. */
export function originOf(url: string): string {
  return URL.canParse(url) ? new URL(url).origin : url
}
