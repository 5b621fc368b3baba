/** So many in so long. */
export interface Rate {
  readonly count: number
  readonly perMs: number
}

/** What is refused or cut short without a problem that says so: the labels of a metric. */
export type Limited = 'sockets' | 'messages' | 'subscriptions' | 'result' | 'progress'

/** The settings of docs/PROTOCOL.md "Limits", in the shape of those in config.ts. */
export const limitSettings = {
  rateLimit: {
    name: 'QUARTET_RATE_LIMIT',
    default: '',
    meaning:
      'Requests that one key may make in a time, e.g. `1000/60s`, over all nodes; where everybody is let in, one ' +
      'address. Without it as many as it likes',
    read: (text: string) => (text === '' ? null : readRate(text)),
  },
  failedCredentials: {
    name: 'QUARTET_FAILED_CREDENTIALS',
    default: '',
    meaning:
      'Times that one address may bring bad credentials to a node, e.g. `100/1m`, before whatever it brings is refused. ' +
      'Without it any number',
    read: (text: string) => (text === '' ? null : readRate(text)),
  },
  maxStreams: {
    name: 'QUARTET_MAX_STREAMS_PER_KEY',
    default: '',
    meaning:
      'Streams and held answers that one key may have open at a time, over all nodes. Without it any number',
    read: readMost,
  },
  maxSockets: {
    name: 'QUARTET_MAX_SOCKETS_PER_KEY',
    default: '',
    meaning: 'WebSockets that one key may have open at a time, over all nodes. Without it any number',
    read: readMost,
  },
  socketMessages: {
    name: 'QUARTET_SOCKET_MESSAGES',
    default: '1000/1s',
    meaning: 'Messages that a WebSocket may send: so many at once, and as many again in so long',
    read: readRate,
  },
  maxSubscriptions: {
    name: 'QUARTET_MAX_SUBSCRIPTIONS',
    default: '128',
    meaning: 'Jobs that one WebSocket may be subscribed to at a time',
    read: readNumber,
  },
  maxBodyBytes: {
    name: 'QUARTET_MAX_BODY_BYTES',
    default: '1048576',
    meaning: 'Bytes of a request’s body; a batch may have eight times as many',
    read: readNumber,
  },
  maxResultBytes: {
    name: 'QUARTET_MAX_RESULT_BYTES',
    default: '8388608',
    meaning: 'Bytes of what a worker returns; with more the job fails',
    read: readNumber,
  },
  maxProgressBytes: {
    name: 'QUARTET_MAX_PROGRESS_BYTES',
    default: '1048576',
    meaning: 'Bytes of one report of progress; of a larger one only its size is told',
    read: readNumber,
  },
} as const

const units = { s: 1_000, m: 60_000, h: 3_600_000 } as const

function readRate(text: string): Rate {
  const [, count = '', time = '', unit = ''] = /^([1-9]\d{0,8})\/([1-9]\d{0,5})(s|m|h)$/.exec(text) ?? []
  if (count === '') throw new Error(`Expected so many in so long, e.g. 1000/60s, got "${text}"`)
  return { count: Number(count), perMs: Number(time) * units[unit as keyof typeof units] }
}

function readMost(text: string): number | null {
  return text === '' ? null : readNumber(text)
}

function readNumber(text: string): number {
  if (/^[1-9]\d{0,8}$/.test(text)) return Number(text)
  throw new Error(`Expected an integer from 1 to 999999999, got "${text}"`)
}
