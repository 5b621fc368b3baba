/*
 * What a job may cost, in counts that do not depend on the machine. `test/round-trips.test.ts` measures them and says in
 * its comments what it has counted. Whoever makes one better lowers its bound here; whoever needs more says why.
 */

export interface Bound {
  /** Commands to Redis for one job: those with its id in them or in their answer. A script counts as one. */
  readonly commands: number
  /** How often anything waits for Redis for this job: commands that need no answer of each other travel together. */
  readonly roundTrips: number
  /** An event as it comes on the client's connection, with all that frames it. */
  readonly eventBytes: number
}

/**
 * A job alone: accepted, started, one report of progress, completed, and each is read and applied by itself, since nothing
 * else happens meanwhile: 4 reads of the result queue, 3 of which change something. One client hears of it. The event is
 * `job.progress` with `{"percent":50}`, whose envelope has 159 bytes.
 */
export const alone = {
  /** POST → 202, and nobody asks: what the others add is for the client. */
  nobody: { commands: 8, roundTrips: 8, eventBytes: 0 },
  /**
   * One long poll after another, from the POST to the end. Each answer has the job and its headers, of which those for
   * browsers are 258 bytes.
   */
  polling: { commands: 22, roundTrips: 20, eventBytes: 1_030 },
  /** The events as the answer to the POST. */
  sse: { commands: 8, roundTrips: 8, eventBytes: 199 },
  ndjson: { commands: 8, roundTrips: 8, eventBytes: 166 },
  /** SSE of a job that somebody else has submitted. */
  attached: { commands: 11, roundTrips: 11, eventBytes: 199 },
  /** Submitted and followed on one socket. */
  websocket: { commands: 8, roundTrips: 8, eventBytes: 186 },
  /** A return address that wants the end: the bytes are those of its request, with the job in it. */
  webhook: { commands: 11, roundTrips: 11, eventBytes: 1_010 },
} satisfies Record<string, Bound>

/**
 * Jobs that are submitted in one turn of the event loop, and all of whose outcomes are there when the collector looks, as
 * are those of a job that is over as soon as it has begun: what is written for one is written for all of them, so these
 * are for all together. Accepting is a call for each 16, and the collector's reads of what they told; collecting a read that brings the
 * first outcome, one that brings the rest, and a call.
 */
export const together = [1, 50].map((jobs) => ({
  jobs,
  accepting: { commands: 2 * Math.ceil(jobs / 16), roundTrips: 2 * Math.ceil(jobs / 16) },
  collecting: { commands: 3, roundTrips: 3 },
}))
