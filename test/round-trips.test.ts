import { once } from 'node:events'
import type { ClientRequestArgs } from 'node:http'
import { connect, type Socket } from 'node:net'
import { Worker, type Job } from 'bullmq'
import t, { type Test } from 'tap'
import { WebSocket } from 'ws'
import { alone, crowd, type Bound } from './bounds.ts'
import { startReceiver, submit } from './conformance/clients.ts'
import { startCountingProxy, type CountingProxy } from './counting-proxy.ts'
import { startGateway, type TestGateway } from './gateway.ts'
import { startRedis } from './helper.ts'

/*
 * What a job costs in commands, round trips and bytes, counted and not timed. The worker is led by hand: each thing that
 * it tells is told once all of the one before is over, so that nothing comes together by chance.
 */

/** A client that hears of one job. */
interface Client {
  readonly id: string
  /** Resolves once it knows of an event of this type; at once if its mode does not tell. */
  heard(type: string): Promise<unknown>
  /** That have come from the gateway by now. */
  bytes(): number
}

type Mode = (t: Test, gateway: TestGateway) => Promise<Client>

const QUEUE = 'counted'
const BODY = { type: QUEUE, input: { hello: 'world' } }
const modes: Record<keyof typeof alone, Mode> = { nobody, polling, sse, ndjson, attached, websocket, webhook }

for (const [name, mode] of Object.entries(modes)) {
  t.test(`a job costs no more than it may: ${name}`, async (t) => {
    const { gateway, proxy, lead } = await start(t)
    // The first one brings the scripts into Redis, and opens what is opened once.
    await live(t, { gateway, proxy, lead }, mode)
    const { id, eventBytes } = await live(t, { gateway, proxy, lead }, mode)
    const { commands, roundTrips } = proxy.countOf([id])
    t.comment(`${name}: ${commands.length} commands in ${roundTrips} round trips (${commands.join(' ')})`)
    t.comment(`${name}: ${eventBytes} bytes an event`)
    const bound: Bound = alone[name as keyof typeof alone]
    t.ok(commands.length <= bound.commands, `at most ${bound.commands} commands`)
    t.ok(roundTrips <= bound.roundTrips, `at most ${bound.roundTrips} round trips`)
    t.ok(eventBytes <= bound.eventBytes, `at most ${bound.eventBytes} bytes an event`)
  })
}

t.test(`what comes together costs together: ${crowd.jobs} jobs`, async (t) => {
  const { gateway, proxy, lead } = await start(t)
  await live(t, { gateway, proxy, lead }, nobody)
  const payload = BODY
  const answers = await Promise.all(
    Array.from({ length: crowd.jobs }, () => gateway.app.inject({ method: 'POST', url: '/jobs', payload })),
  )
  const ids = answers.map((answer) => answer.json<{ job_id: string }>().job_id)
  await proxy.settled()
  const accepting = proxy.countOf(ids)

  const release = proxy.holdReads()
  const jobs = await Promise.all(ids.map(() => lead.take()))
  await Promise.all(jobs.map((job) => lead.complete(job)))
  release()
  await lead.told(2 * crowd.jobs)
  const all = proxy.countOf(ids)

  const collecting = all.commands.length - accepting.commands.length
  t.comment(`accepting: ${accepting.commands.length} commands in ${accepting.roundTrips} round trips`)
  t.comment(`collecting: ${collecting} commands in ${all.roundTrips - accepting.roundTrips} round trips`)
  t.ok(accepting.commands.length <= crowd.accepting.commands, 'commands of accepting')
  t.ok(accepting.roundTrips <= crowd.accepting.roundTrips, 'round trips of accepting')
  t.ok(collecting <= crowd.collecting.commands, 'commands of collecting')
  t.ok(all.roundTrips - accepting.roundTrips <= crowd.collecting.roundTrips, 'round trips of collecting')
})

interface Parts {
  readonly gateway: TestGateway
  readonly proxy: CountingProxy
  readonly lead: Awaited<ReturnType<typeof leadByHand>>
}

async function start(t: Test): Promise<Parts> {
  const redis = await startRedis(t)
  const proxy = await startCountingProxy(t, redis.port)
  const types = { [QUEUE]: { steps: [QUEUE] } }
  const gateway = await startGateway(t, types, { redis: { ...redis, url: proxy.url } })
  const worker = new Worker(QUEUE, null, { connection: redis.connect({ maxRetriesPerRequest: null }) })
  worker.on('error', () => undefined)
  t.teardown(() => worker.close(true))
  return { gateway, proxy, lead: leadByHand(gateway, proxy, worker) }
}

/** A worker that does each thing when it is told to. Each resolves once the gateway has dealt with it. */
function leadByHand(gateway: TestGateway, proxy: CountingProxy, worker: Worker) {
  let outcomes = 0
  return { take, report, complete, told }

  async function take(): Promise<Job> {
    const job = await worker.getNextJob('token', { block: false })
    if (!job) throw new Error('Expected a job, got none')
    return job
  }

  async function report(job: Job): Promise<void> {
    await job.updateProgress(50)
  }

  async function complete(job: Job): Promise<void> {
    await job.moveToCompleted('done', 'token', false)
  }

  /** So many more outcomes are in the journals, and nothing is under way. */
  async function told(more: number): Promise<void> {
    outcomes += more
    const counted = /^quartet_results_total\{[^}]*\} (\d+)$/m
    for (;;) {
      const metrics = await (await fetch(`${gateway.url}/metrics`)).text()
      if (Number(counted.exec(metrics)?.[1] ?? 0) >= outcomes) break
    }
    await proxy.settled()
  }
}

/** One job from its submission to its end. */
async function live(
  t: Test,
  { gateway, proxy, lead }: Parts,
  mode: Mode,
): Promise<{ id: string; eventBytes: number }> {
  const client = await mode(t, gateway)
  await client.heard('job.queued')
  await proxy.settled()
  const job = await lead.take()
  await lead.told(1)
  await client.heard('step.started')
  await proxy.settled()
  const before = client.bytes()
  await lead.report(job)
  await lead.told(1)
  await client.heard('job.progress')
  await proxy.settled()
  const progressBytes = client.bytes() - before
  const beforeEnd = client.bytes()
  await lead.complete(job)
  await lead.told(1)
  await client.heard('job.completed')
  await proxy.settled()
  // A return address is told of the end only.
  return { id: client.id, eventBytes: progressBytes || client.bytes() - beforeEnd }
}

async function nobody(_t: Test, gateway: TestGateway): Promise<Client> {
  const { job_id: id } = await submit(gateway, BODY)
  return { id, heard: async () => undefined, bytes: () => 0 }
}

function sse(t: Test, gateway: TestGateway): Promise<Client> {
  return stream(t, gateway, 'text/event-stream')
}

function ndjson(t: Test, gateway: TestGateway): Promise<Client> {
  return stream(t, gateway, 'application/x-ndjson')
}

async function stream(t: Test, gateway: TestGateway, accept: string): Promise<Client> {
  const wire = await openWire(t, gateway.url)
  wire.request('POST', '/jobs', { accept }, JSON.stringify(BODY))
  const [, id = ''] = await wire.until(/x-correlation-id: (\S+)/)
  return { id, heard: (type) => wire.until(new RegExp(`"type":"${type}"`)), bytes: wire.bytes }
}

async function attached(t: Test, gateway: TestGateway): Promise<Client> {
  const { id } = await nobody(t, gateway)
  const wire = await openWire(t, gateway.url)
  wire.request('GET', `/jobs/${id}/events`, { accept: 'text/event-stream' })
  return { id, heard: (type) => wire.until(new RegExp(`"type":"${type}"`)), bytes: wire.bytes }
}

/** Asks on as soon as it has an answer; how the job stands tells it what has happened. */
async function polling(t: Test, gateway: TestGateway): Promise<Client> {
  const wire = await openWire(t, gateway.url)
  wire.request('POST', '/jobs', {}, JSON.stringify(BODY))
  const [, id = ''] = await wire.until(/"job_id":"([^"]+)".*"seq":1,/)
  const seqs: Record<string, number> = {
    'job.queued': 1,
    'step.started': 2,
    'job.progress': 3,
    'job.completed': 4,
  }
  const poll = (after: number) => wire.request('GET', `/jobs/${id}?after=${after}`, { prefer: 'wait=30' })
  return {
    id,
    async heard(type) {
      const seq = seqs[type] ?? 0
      await wire.until(new RegExp(`"seq":${seq},`))
      if (type !== 'job.completed') poll(seq)
    },
    bytes: wire.bytes,
  }
}

async function websocket(t: Test, gateway: TestGateway): Promise<Client> {
  let wire: Socket | undefined
  const socket = new WebSocket(`${gateway.url.replace('http', 'ws')}/ws`, 'quartet.v1', {
    createConnection: (options: ClientRequestArgs) =>
      (wire = connect(Number(options.port), options.host ?? undefined)),
  })
  t.teardown(() => socket.terminate())
  const text = createText()
  socket.on('message', (data: Buffer) => text.add(data.toString()))
  await once(socket, 'open')
  socket.send('{"op":"init"}')
  socket.send(JSON.stringify({ op: 'submit', ref: 1, job: BODY }))
  const [, id = ''] = await text.until(/"op":"accepted".*?"job_id":"([^"]+)"/)
  return {
    id,
    heard: (type) => text.until(new RegExp(`"type":"${type}"`)),
    bytes: () => wire?.bytesRead ?? 0,
  }
}

async function webhook(t: Test, gateway: TestGateway): Promise<Client> {
  let bytes = 0
  const receiver = await startReceiver(t, (response) => {
    bytes = response.socket?.bytesRead ?? 0
    response.writeHead(204).end()
  })
  const { job_id: id } = await submit(gateway, { ...BODY, callback_url: receiver.url })
  return {
    id,
    heard: async (type) => (type === 'job.completed' ? receiver.next() : undefined),
    bytes: () => bytes,
  }
}

/** A connection whose bytes are counted. */
async function openWire(t: Test, url: string) {
  const { port, hostname, host } = new URL(url)
  const socket = connect(Number(port), hostname)
  t.teardown(() => socket.destroy())
  const text = createText()
  socket.setEncoding('utf8').on('data', (piece: string) => text.add(piece))
  await once(socket, 'connect')
  return {
    request(method: string, path: string, headers: Record<string, string>, body = ''): void {
      const sent = Object.entries({
        host,
        ...headers,
        ...(body !== '' && { 'content-type': 'application/json', 'content-length': String(body.length) }),
      })
      const head = sent.map(([name, value]) => `${name}: ${value}\r\n`).join('')
      socket.write(`${method} ${path} HTTP/1.1\r\n${head}\r\n${body}`)
    },
    until: text.until,
    bytes: () => socket.bytesRead,
  }
}

/** Text that comes in pieces, for whoever waits for some of it. */
function createText() {
  let text = ''
  let look: () => void = () => undefined
  return {
    add(piece: string): void {
      text += piece
      look()
    },
    until: (pattern: RegExp): Promise<RegExpExecArray> =>
      new Promise((resolve) => {
        look = () => {
          const found = pattern.exec(text)
          if (found) resolve(found)
        }
        look()
      }),
  }
}
