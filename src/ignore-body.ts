import type { FastifyInstance } from 'fastify'

/** The routes of this scope need no body, so one that comes along, of whatever kind, is none of their business. */
export function ignoreBody(scope: FastifyInstance): void {
  scope.removeAllContentTypeParsers()
  scope.addContentTypeParser('*', (_request, payload, done) => {
    payload.resume()
    done(null)
  })
}
