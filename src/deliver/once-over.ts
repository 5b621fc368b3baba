import type { FastifyReply } from 'fastify'

/**
 * Calls `end` once, when an answer is over: sent whole, or its client has hung up; at once if it is. The answer to a
 * pipelined request has no connection before those in front of it are sent, and if that goes first, it tells nobody.
 */
export function onceOver({ raw: response, request }: FastifyReply, end: () => void): void {
  const { socket } = request.raw
  if (response.destroyed || socket.destroyed) return end()
  // As many as are pipelined.
  socket.setMaxListeners(0)
  response.once('close', over)
  socket.once('close', over)

  function over(): void {
    response.off('close', over)
    socket.off('close', over)
    end()
  }
}
