import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'
import { WebSocket } from 'ws'
import type { Scope } from '../scope.ts'
import { quantile } from './load.ts'
import { getJson, post, postStream } from './post.ts'
import { startNetwork } from './processes.ts'
import { LAST_SEQ, NETWORK_MS, newJob, PATIENCE_MS } from './story.ts'

/** How long until the client has the result, by the way in which it hears of it. */
export interface ModeFigures {
  readonly mode: string
  readonly ms: number
}

const ORDERS = 10
const POLL_MS = 1_000
const ended = /"type":"job\.completed"/

type Hear = () => Promise<unknown>

/** Submits orders one after another, and hears of each in each mode. Times are from the POST on, the median of them. */
export async function tellModes(t: Scope, url: string): Promise<{ figures: ModeFigures[]; orders: number }> {
  const modes: Record<string, Hear> = {
    'polling, every second': () => poll(url),
    'long poll': () => longPoll(url),
    'server-sent events': () => postStream(`${url}/jobs`, newJob(), (text) => ended.test(text)),
    WebSocket: await startWebSocket(t, url),
    webhook: await startReceiver(t, url),
    '`Prefer: wait` (hybrid)': () => wait(url),
  }
  const figures: ModeFigures[] = []
  for (const [mode, hear] of Object.entries(modes)) {
    const took: number[] = []
    // The first is for the connection.
    await hear()
    while (took.length < ORDERS) {
      const since = performance.now()
      await hear()
      took.push(performance.now() - since)
    }
    figures.push({ mode, ms: quantile(took, 0.5) })
  }
  return { figures, orders: figures.length * (ORDERS + 1) }
}

async function submit(url: string, more = ''): Promise<string> {
  const { text } = await post(`${url}/jobs`, newJob(more), { timeoutMs: PATIENCE_MS })
  return (JSON.parse(text) as { job_id: string }).job_id
}

/** As `Retry-After: 1` says. */
async function poll(url: string): Promise<void> {
  const id = await submit(url)
  for (;;) {
    await delay(POLL_MS)
    const { finished_at } = await getJson<{ finished_at: string | null }>(`${url}/jobs/${id}`)
    if (finished_at !== null) return
  }
}

async function longPoll(url: string): Promise<void> {
  const id = await submit(url)
  await getJson(`${url}/jobs/${id}?after=${LAST_SEQ - 1}`, { prefer: 'wait=60' })
}

async function wait(url: string): Promise<void> {
  const options = { timeoutMs: PATIENCE_MS, headers: { prefer: `wait=${PATIENCE_MS / 1_000}` } }
  const { status } = await post(`${url}/jobs`, newJob(), options)
  if (status !== 200) throw new Error(`Expected the result as the answer, got ${status}`)
}

async function startWebSocket(t: Scope, url: string): Promise<Hear> {
  const socket = new WebSocket(`${url.replace('http', 'ws')}/ws`, 'quartet.v1')
  t.teardown(() => socket.terminate())
  await once(socket, 'open')
  socket.send('{"op":"init"}')
  let heard: () => void = () => undefined
  socket.on('message', (frame: Buffer) => {
    if (ended.test(frame.toString())) heard()
  })
  return async () => {
    const arrived = new Promise<void>((resolve) => (heard = resolve))
    socket.send(`{"op":"submit","ref":1,"job":${newJob()}}`)
    await arrived
  }
}

/** The gateway's calls come over the network as well. */
async function startReceiver(t: Scope, url: string): Promise<Hear> {
  let heard: () => void = () => undefined
  const server = createServer((request, response) => {
    request.resume().on('end', () => {
      heard()
      response.writeHead(204).end()
    })
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => {
    server.close()
    server.closeAllConnections()
  })
  const [to = ''] = await startNetwork(t, NETWORK_MS, [(server.address() as AddressInfo).port])
  return async () => {
    const arrived = new Promise<void>((resolve) => (heard = resolve))
    await submit(url, `"callback_url":"${to}/",`)
    await arrived
  }
}
