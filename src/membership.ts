import { createHash, randomUUID } from 'node:crypto'
import { setTimeout as delay } from 'node:timers/promises'
import type { FastifyBaseLogger } from 'fastify'
import type { Nodes, Store } from './store/store.ts'

const BEAT_MS = 1_000
/** A node that is not heard of for so long is gone, and others collect in its place. */
const TTL_MS = 3_000

/** The nodes that share one store, as this one sees them. */
export interface Membership {
  /** Whether collecting from this queue falls to this node. */
  collects(queue: string): boolean
  /** How many nodes there are. */
  readonly size: number
  /** How many of them take jobs in. */
  readonly fronts: number
  /** Announces this node until the signal ends it; the first time before it resolves. */
  join(signal: AbortSignal): Promise<{ readonly left: Promise<void> }>
}

export interface MembershipParts {
  readonly store: Store
  /** This node's name, of {@link nameNode}: no other node, before or after, has it. */
  readonly node: string
  /** The queues that this node would collect from. */
  readonly queues: readonly string[]
  readonly log: FastifyBaseLogger
}

/** What the name of a node that takes jobs in begins with. */
const FRONT = 'front-'

/** A name for a node, which tells the others whether it takes jobs in. */
export function nameNode(isFront: boolean): string {
  return `${isFront ? FRONT : ''}${randomUUID()}`
}

export function createMembership({ store, node, queues, log }: MembershipParts): Membership {
  let nodes: Nodes = new Map()
  let mine: ReadonlySet<string> = new Set()
  let isFailing = false

  return {
    collects: (queue) => mine.has(queue),
    get size() {
      return Math.max(1, nodes.size)
    },
    get fronts() {
      return Math.max(1, [...nodes.keys()].filter((name) => name.startsWith(FRONT)).length)
    },
    async join(signal) {
      await beat()
      return { left: stay(signal) }
    },
  }

  async function stay(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      await delay(BEAT_MS, undefined, { signal }).catch(() => undefined)
      if (!signal.aborted) await beat()
    }
    // If the store is away, the others see this node go when its time is over.
    await store.announce(node, [], 0).catch(() => undefined)
  }

  async function beat(): Promise<void> {
    try {
      nodes = await store.announce(node, queues, TTL_MS)
      const owners = share(nodes)
      mine = new Set(queues.filter((queue) => owners.get(queue) === node))
      if (isFailing) log.info('announced to the other nodes again')
      isFailing = false
    } catch (err) {
      if (!isFailing) log.warn({ err }, 'cannot be announced to the other nodes')
      isFailing = true
    }
  }
}

/**
 * Shares the queues out: to nodes that know them, to none more than its share while another has room, and otherwise by
 * rendezvous hashing, so that few queues move when a node comes or goes. All who see the same nodes say the same.
 *
 * @returns queue → node
 */
export function share(nodes: Nodes): ReadonlyMap<string, string> {
  const collectors = [...nodes].filter(([, known]) => known.length > 0)
  const willing = new Map<string, string[]>()
  for (const [name, known] of collectors) {
    for (const queue of known) willing.set(queue, [...(willing.get(queue) ?? []), name])
  }
  const fairShare = Math.ceil(willing.size / collectors.length)
  // Those that few can take come first, while they have room.
  const queues = [...willing].toSorted(([a, of], [b, than]) => of.length - than.length || (a < b ? -1 : 1))
  const owners = new Map<string, string>()
  const loads = new Map<string, number>()
  for (const [queue, names] of queues) {
    const ranked = names.toSorted((a, b) => weigh(b, queue) - weigh(a, queue))
    const owner = ranked.find((name) => (loads.get(name) ?? 0) < fairShare) ?? ranked[0] ?? ''
    owners.set(queue, owner)
    loads.set(owner, (loads.get(owner) ?? 0) + 1)
  }
  return owners
}

function weigh(node: string, queue: string): number {
  return createHash('sha1').update(`${node} ${queue}`).digest().readUIntBE(0, 6)
}
