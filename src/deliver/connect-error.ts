/** Why a connection was not made or was cut, where neither Node.js nor undici has a code for it. */
export type ConnectErrorCode =
  | 'ADDRESS_BLOCKED'
  | 'ANSWER_TOO_LONG'
  | 'CONNECT_TIMEOUT'
  | 'PROXY_REFUSED'
  | 'PROXY_UNUSABLE'
  | 'TLS_FAILED'

/** Makes the error that `judgeError` makes a reason of, by its code. */
export function connectError(code: ConnectErrorCode, message: string, cause?: unknown): Error {
  return Object.assign(new Error(message, { cause }), { code })
}

/** A failure of TLS. Of OpenSSL's own it tells the reason alone, as their messages hold addresses of memory. */
export function tlsError(error: Error): Error {
  const { code = '', reason = code, message } = error as NodeJS.ErrnoException & { reason?: string }
  const what = isOfOpenSsl(code) ? reason : message
  return connectError('TLS_FAILED', `Expected a TLS connection, got ${what}`, error)
}

/** Whether this code is one of OpenSSL's failures: reading, or writing. */
export function isOfOpenSsl(code: string): boolean {
  return code.startsWith('ERR_SSL_') || code === 'EPROTO'
}
