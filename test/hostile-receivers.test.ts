import { channel, type ChannelListener } from 'node:diagnostics_channel'
import type { Socket } from 'node:net'
import { setImmediate } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { createReturnAddressGuard } from '../src/deliver/return-address.ts'
import { createWebhookSender } from '../src/deliver/send-webhook.ts'
import { generateSecret, parseSigningKeys } from '../src/deliver/signature.ts'
import { faults, marker } from './hostile-receivers.ts'

const MAX_ANSWER_BYTES = 65_536

/** A sender with little time; the default of all else. */
/** @param timeoutMs long enough for whatever is not to run into it */
function startSender(t: Test, timeoutMs = 400) {
  const guard = createReturnAddressGuard({ allow: ['127.0.0.0/8'], connectTimeoutMs: 0.75 * timeoutMs })
  t.teardown(() => guard.close())
  const keys = parseSigningKeys(generateSecret())
  const { dispatcher } = guard
  return {
    guard,
    ...createWebhookSender({ dispatcher, keys, userAgent: 'quartet-test/1', timeoutMs }),
  }
}

/** The connections that undici was given, and how many it has asked for, from now on. */
function watchConnections(t: Test) {
  const sockets: Socket[] = []
  const ends: Promise<unknown>[] = []
  let asked = 0
  const listeners: Record<string, ChannelListener> = {
    'undici:client:beforeConnect': () => void asked++,
    'undici:client:connected': (message) => {
      const { socket } = message as { socket: Socket }
      sockets.push(socket)
      ends.push(new Promise((resolve) => socket.once('close', resolve)))
    },
  }
  for (const [name, listen] of Object.entries(listeners)) {
    channel(name).subscribe(listen)
    t.teardown(() => channel(name).unsubscribe(listen))
  }
  return {
    sockets,
    asked: () => asked,
    /** Resolves when undici has heard of the end of those that were given up. */
    ended: () => Promise.all(ends.filter((_, index) => sockets[index]?.destroyed)).then(() => setImmediate()),
  }
}

for (const [does, { start, outcome }] of Object.entries(faults)) {
  t.test(`a receiver that ${does} is recorded as such, and holds nothing`, async (t) => {
    const receiver = await start(t)
    const { guard, send } = startSender(t)
    const { sockets, asked, ended } = watchConnections(t)
    const body = JSON.stringify({ data: 'a'.repeat(1_000) })
    const found = await send({ tenant: 'default', url: receiver.url, id: 'job.1', body })

    t.match(found, { ...outcome, durationMs: Number })
    t.notMatch(JSON.stringify(found), marker, 'nothing that it sent is recorded')
    t.ok(!('error' in found) || found.error.length <= 300, 'the error is short')
    t.equal(receiver.connections(), 1, 'it was asked once')
    t.ok(receiver.requests() <= 1)
    for (const { bytesRead } of sockets) {
      t.ok(bytesRead <= 2 * MAX_ANSWER_BYTES, `${bytesRead} bytes were read, the last chunk with them`)
    }
    await ended()
    t.equal(asked(), 1, 'nor is it connected to again when it has been given up')
    await guard.close()
    await receiver.left()
  })
}

t.test('a large event is delivered to a receiver that answers without having taken all of it', async (t) => {
  const receiver = await faults['answers before the body was taken'].start(t)
  const { guard, send } = startSender(t, 15_000)
  const body = JSON.stringify({ data: 'a'.repeat(16 * 1024 * 1024) })
  t.match(await send({ tenant: 'default', url: receiver.url, id: 'job.1', body }), {
    status: 'delivered',
    statusCode: 200,
  })
  t.match(await send({ tenant: 'default', url: receiver.url, id: 'job.2', body: '{}' }), {
    status: 'delivered',
    statusCode: 200,
  })
  await guard.close()
  await receiver.left()
})

t.test('after all of them no socket is left open', async (t) => {
  // What has just been destroyed goes in the next turns of the event loop.
  while (process.getActiveResourcesInfo().includes('TCPSocketWrap')) await setImmediate()
  t.pass('none is')
})
