/* Redis's protocol (RESP), as far as whoever sits between a client and a server needs it. */

export interface Command {
  readonly words: string[]
  readonly bytes: Buffer
}

/** Takes a client's bytes as they come, and gives back the commands that are whole by then (RESP arrays of bulk strings). */
export function createCommandReader(): (chunk: Buffer) => Command[] {
  let rest = Buffer.alloc(0)
  return (chunk) => {
    rest = Buffer.concat([rest, chunk])
    const commands: Command[] = []
    for (let command = readCommand(rest); command; command = readCommand(rest)) {
      commands.push(command)
      rest = rest.subarray(command.bytes.length)
    }
    return commands
  }
}

function readCommand(bytes: Buffer): Command | null {
  let at = 0
  const count = readLength('*')
  if (count === null) return null
  const words: string[] = []
  while (words.length < count) {
    const length = readLength('$')
    if (length === null || bytes.length < at + length + 2) return null
    words.push(bytes.toString('utf8', at, at + length))
    at += length + 2
  }
  return { words, bytes: bytes.subarray(0, at) }

  /** The number after `sign`, null if it has not come yet. */
  function readLength(sign: string): number | null {
    const end = bytes.indexOf('\r\n', at)
    if (end === -1) return null
    const line = bytes.toString('latin1', at, end)
    if (!line.startsWith(sign)) throw new Error(`Expected a command of RESP, got ${line}`)
    at = end + 2
    return Number(line.slice(1))
  }
}

export interface Reply {
  readonly bytes: Buffer
  /** What was published comes without having been asked for. */
  readonly isMessage: boolean
}

/** Takes a server's bytes as they come, and gives back the replies that are whole by then (RESP 2 and 3). */
export function createReplyReader(): (chunk: Buffer) => Reply[] {
  let rest = Buffer.alloc(0)
  return (chunk) => {
    rest = Buffer.concat([rest, chunk])
    const replies: Reply[] = []
    for (let end = endOf(rest, 0); end !== null; end = endOf(rest, 0)) {
      const bytes = rest.subarray(0, end)
      replies.push({ bytes, isMessage: isMessage(bytes) })
      rest = rest.subarray(end)
    }
    return replies
  }
}

/** `>` is what is pushed; the answer to a SUBSCRIBE is too, but it was asked for. */
function isMessage(bytes: Buffer): boolean {
  return /^>\d+\r\n\$\d+\r\np?message\r\n/.test(bytes.toString('latin1', 0, 32))
}

/** Where the value that begins at `at` ends, null if the rest of it has not come yet. */
function endOf(bytes: Buffer, at: number): number | null {
  const lineEnd = bytes.indexOf('\r\n', at)
  if (lineEnd === -1) return null
  const [sign, after] = [bytes.toString('latin1', at, at + 1), lineEnd + 2]
  const size = Number(bytes.toString('latin1', at + 1, lineEnd))
  if ('+-:_#,('.includes(sign)) return after
  if (!'$=!*~>%|'.includes(sign)) throw new Error(`Expected a reply of RESP, got ${sign}`)
  if (size === -1) return after
  if ('$=!'.includes(sign)) return bytes.length < after + size + 2 ? null : after + size + 2
  // Maps have two values an entry, and what attributes belong to follows them.
  const count = sign === '%' ? 2 * size : sign === '|' ? 2 * size + 1 : size
  let end: number | null = after
  for (let n = 0; n < count && end !== null; n++) end = endOf(bytes, end)
  return end
}
