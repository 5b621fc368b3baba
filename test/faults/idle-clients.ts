import { connect } from 'node:net'
import { WebSocket } from 'ws'

/*
 * A process of its own that holds many connections open and follows one job on each: `idle-clients.ts <mode> <url>
 * <job id> <count>`. Prints `open <count>` once each has its first event, and in the end how many had the terminal one.
 */

const [mode = '', url = '', id = '', many = ''] = process.argv.slice(2)
const count = Number(many)
/** Connecting at a time: fewer than a listening socket keeps waiting. */
const AT_ONCE = 100
const isTerminal = /"type":"job\.(completed|failed|canceled|expired)"/

let opened = 0
let ended = 0
const connections: Promise<void>[] = []

for (let n = 0; n < AT_ONCE; n++) openNext()
function openNext(): void {
  if (connections.length === count) return
  const { promise, onText } = follow()
  connections.push(promise)
  if (mode === 'websocket') openSocket(onText)
  else openStream(onText)
}

/** @returns what to tell of each piece of text, and of the end (null) */
function follow() {
  let isOpen = false
  let hasEnded = false
  let finish: () => void
  const promise = new Promise<void>((resolve) => (finish = resolve))
  const onText = (text: string | null): void => {
    if (text === null) return finish()
    if (!hasEnded && isTerminal.test(text)) {
      hasEnded = true
      ended++
    }
    if (isOpen || !text.includes('"seq":1')) return
    isOpen = true
    openNext()
    if (++opened === count) {
      console.log(`open ${opened}`)
      void Promise.all(connections).then(() => console.log(`ended ${ended}`))
    }
  }
  return { promise, onText }
}

function openStream(onText: (text: string | null) => void): void {
  const { hostname, port } = new URL(url)
  const socket = connect(Number(port), hostname).setEncoding('utf8')
  socket.write(
    `GET /jobs/${id}/events HTTP/1.1\r\nhost: ${hostname}\r\naccept: text/event-stream\r\nconnection: close\r\n\r\n`,
  )
  socket.on('data', onText)
  socket.on('error', (error) => console.log(error.message))
  socket.on('close', () => onText(null))
}

function openSocket(onText: (text: string | null) => void): void {
  const socket = new WebSocket(`${url.replace('http', 'ws')}/ws`, 'quartet.v1', { perMessageDeflate: false })
  socket.on('open', () => {
    socket.send('{"op":"init"}')
    socket.send(JSON.stringify({ op: 'subscribe', ref: 1, job_id: id }))
  })
  socket.on('message', (data: Buffer) => {
    const frame = data.toString()
    if (frame.startsWith('{"op":"event"')) onText(frame)
    if (frame.startsWith('{"op":"end"')) socket.close()
  })
  socket.on('error', (error) => console.log(error.message))
  socket.on('close', () => onText(null))
}
