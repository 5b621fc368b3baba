import type { FastifyReply } from 'fastify'
import { nameOf } from '../access/limit-requests.ts'
import type { Places } from '../access/places.ts'
import { Problem } from '../errors.ts'
import { onceOver } from './once-over.ts'

/** Nobody knows when a place will be free. Seconds. */
const RETRY_AFTER_S = 5

/** Takes a place for an answer that is to be held open, until it is over. False: whoever asks has too many open. */
export type HoldOpen = (reply: FastifyReply) => Promise<boolean>

/** @param places null where nothing bounds them */
export function createHoldOpen(places: Places | null): HoldOpen {
  if (places === null) return async () => true
  return async (reply) => {
    const { identity, ip } = reply.request
    const giveBack = await places.take(nameOf(identity, ip))
    if (giveBack === null) return false
    onceOver(reply, giveBack)
    return true
  }
}

export function tooManyStreams(): Problem {
  return new Problem('too_many_streams', 'Expected another stream or held answer to end first', {
    retryAfterS: RETRY_AFTER_S,
  })
}
