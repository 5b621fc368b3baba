import { once } from 'node:events'
import { connect, createServer, type AddressInfo, type Socket } from 'node:net'

/*
 * The network, as a process: `node bench/story/network.ts <ms> <port>…` listens once for each port of loopback, and
 * passes on what comes, in both directions, that much later. Only what is sent is delayed: a connection is made at once.
 */

const [ms = 0, ...ports] = process.argv.slice(2).map(Number)
const listening: number[] = []
for (const port of ports) {
  const server = createServer({ allowHalfOpen: true, noDelay: true }, (near) => {
    const far = connect({ port, host: '127.0.0.1', allowHalfOpen: true, noDelay: true })
    pass(near, far)
    pass(far, near)
  })
  server.listen(0, '127.0.0.1', 4_096)
  await once(server, 'listening')
  listening.push((server.address() as AddressInfo).port)
}
console.log(`passes on ${listening.join(' ')}`)

/** Timers of one length go off in the order in which they were set, so nothing overtakes. */
function pass(from: Socket, to: Socket): void {
  from.on('data', (chunk) => setTimeout(() => to.write(chunk), ms))
  from.on('end', () => setTimeout(() => to.end(), ms))
  from.on('error', () => undefined)
  from.on('close', () => setTimeout(() => to.destroy(), ms))
}
