import { pino, stdSerializers, type DestinationStream, type Logger } from 'pino'
import type { Config } from './config.ts'
import { redact } from './redact.ts'

/**
 * The log, one JSON object a line. A line that concerns a job has its `job_id` and `tenant`, one that a request led to its
 * `request_id`. No line has a secret in it, whatever was logged.
 *
 * @param destination standard output without it
 */
export function createLog(level: Config['logLevel'], destination?: DestinationStream): Logger {
  const options = { level, serializers: { err: showError }, hooks: { streamWrite: redact } }
  return destination ? pino(options, destination) : pino(options)
}

/** Of an error what says what went wrong and where. What else hangs on it may be anybody's: ioredis keeps the command. */
function showError(error: unknown): unknown {
  if (!(error instanceof Error)) return error
  const { type, message, stack } = stdSerializers.err(error)
  const { code } = error as NodeJS.ErrnoException
  return { type, message, stack, ...(code !== undefined && { code }) }
}
