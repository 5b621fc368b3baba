/** What is counted for all nodes together, under names of the gateway's choice. */
export interface Limits {
  /**
   * Counts `cost` more. A count begins with the first, and is over `windowMs` later, whatever comes meanwhile.
   *
   * @returns the count, this included, and for how long it goes on: 1 ms at least
   */
  count(name: string, cost: number, windowMs: number): Promise<Count>

  /**
   * Says how many places under a name a node has, instead of what it said before, and asks for more. It has them for `ttlMs`
   * at most, and for no longer than it is here (by its {@link Store.announce}).
   *
   * @returns how many more it has now: as many as the nodes that are here leave of `most`
   */
  hold(name: string, node: string, places: Places): Promise<number>
}

export interface Count {
  readonly count: number
  readonly leftMs: number
}

export interface Places {
  readonly held: number
  readonly more: number
  readonly most: number
  readonly ttlMs: number
}
