import { setTimeout as delay } from 'node:timers/promises'
import { Worker } from 'bullmq'
import t, { type Test } from 'tap'
import { WebSocket } from 'ws'
import { createInbox, piecesOf, type Attempt } from '../conformance/clients.ts'
import { all, ndjson, seqOf, sse, websocket, type Mode } from '../e2e/modes.ts'
import { startGatewayProcess, submit, type GatewayProcess } from '../e2e/processes.ts'
import { startRedis, type TestRedis } from '../helper.ts'
import { descriptorsOf, memoryOf, mib, reportsMemory, residentOf } from './process-figures.ts'
import { times } from './report.ts'

const OUTPUT_BYTES = 262_144
/** More than the kernel buffers of both ends take, for all but a few. */
const EVENTS = 64

/** A client that has stopped reading, until it is told to go on: then it takes whatever there still is for it. */
type SlowReader = (url: string, id: string) => Promise<{ goOn: () => AsyncGenerator<string> }>

const slowStream =
  (accept: string): SlowReader =>
  async (url, id) => {
    const response = await fetch(`${url}/jobs/${id}/events`, { headers: { accept } })
    return {
      async *goOn() {
        try {
          for await (const line of piecesOf(response, '\n')) {
            const [, text] = /^(?:data: )?(\{.*)$/.exec(line) ?? []
            if (text !== undefined) yield text
          }
        } catch {
          // Cut off in the middle of an event: it is asked for again.
        }
      },
    }
  }

const slowSocket: SlowReader = async (url, id) => {
  const socket = new WebSocket(`${url.replace('http', 'ws')}/ws`, 'quartet.v1')
  const texts: string[] = []
  const head = '{"op":"event","event":'
  socket.on('message', (data: Buffer) => {
    const frame = data.toString()
    if (frame.startsWith(head)) texts.push(frame.slice(head.length, -1))
  })
  socket.on('error', () => undefined)
  const closed = new Promise((resolve) => socket.on('close', resolve))
  await new Promise((resolve) => socket.on('open', resolve))
  socket.send('{"op":"init"}')
  socket.send(JSON.stringify({ op: 'subscribe', ref: 1, job_id: id }))
  socket.pause()
  return {
    async *goOn() {
      socket.resume()
      await closed
      yield* texts
    },
  }
}

const slowReaders = [slowStream('text/event-stream'), slowStream('application/x-ndjson'), slowSocket]
const modes: readonly Mode[] = [sse, ndjson, websocket]

t.test(
  'clients that stop reading cost their buffer, slow nobody down, and resume without a gap',
  async (t) => {
    const redis = await startRedis(t)
    const types = { big: { steps: ['big'], attempts: 1 } }
    const gateway = await startGatewayProcess(t, { redis, types, roles: 'http,collect', env: reportsMemory })
    const attempts = await startWorker(t, redis)
    const slow = times(100, 24)

    const alone = await run(gateway, attempts, 0)
    const peakAlone = residentOf(gateway).peak
    const crowded = await run(gateway, attempts, slow)
    const { now, peak } = residentOf(gateway)
    const perStream = (crowded.usedFull - crowded.usedBefore) / slow
    t.comment(
      `slow readers: ${slow} of ${EVENTS} events of 256 KB, ${crowded.cutOff} cut off, ${crowded.faulty} with a gap or ` +
        `repeat · ${mib(perStream)} each · highest RSS ${mib(peakAlone)} without them, ${mib(peak)} with, ${mib(now)} after · ` +
        `the others done in ${alone.healthyMs} ms without, ${crowded.healthyMs} ms with`,
    )
    t.equal(alone.healthyFaulty, 0)
    t.equal(crowded.healthyFaulty, 0)
    t.ok(crowded.cutOff > slow * 0.75)
    t.equal(crowded.faulty, 0)
    // A page of the journal for a stream, 1 MiB and a page for a WebSocket, and some garbage of the moment.
    t.ok(perStream < 2 * 1_048_576, 'a buffer each, and no more')
  },
)

async function run(gateway: GatewayProcess, attempts: ReturnType<typeof createInbox<Attempt>>, slow: number) {
  const id = await submit(gateway.url, { type: 'big' })
  const attempt = await attempts.next()
  const usedBefore = (await memoryOf(gateway)).used
  const descriptors = descriptorsOf(gateway)
  const open = (count: number) =>
    Promise.all(
      Array.from({ length: count }, (_, index) =>
        (slowReaders[index % slowReaders.length] ?? slowSocket)(gateway.url, id),
      ),
    )
  // Half are there for the live events, half find a journal that is more than they can take.
  const early = await open(slow / 2)
  await write(attempt, EVENTS / 2)
  const late = await open(slow / 2)
  const since = Date.now()
  const healthy = Promise.all(
    Array.from({ length: 6 }, (_, index) => all((modes[index % modes.length] ?? sse)(gateway.url, id, 0))),
  )
  await write(attempt, EVENTS / 2)
  attempt.complete()
  const transcripts = await healthy
  const healthyMs = Date.now() - since
  const usedFull = (await memoryOf(gateway)).used

  // Cut off by the gateway, after ten seconds; none of them has read anything by then.
  while (descriptorsOf(gateway) > descriptors + 10) await delay(100)
  const journal = await all(ndjson(gateway.url, id, 0))
  let cutOff = 0
  let faulty = 0
  for (const reader of [...early, ...late]) {
    let seq = 0
    let isRight = true
    const take = async (texts: AsyncIterable<string>) => {
      for await (const text of texts) isRight &&= seqOf(text) === seq + 1 && text === journal[seq++]
    }
    await take(reader.goOn())
    if (seq < journal.length) cutOff++
    await take(ndjson(gateway.url, id, seq))
    if (!isRight || seq !== journal.length) faulty++
  }
  const healthyFaulty = transcripts.filter((texts) => String(texts) !== String(journal)).length
  return { usedBefore, usedFull, healthyMs, healthyFaulty, cutOff, faulty }
}

/** Runs a plain worker whose jobs the test does itself. */
async function startWorker(t: Test, redis: TestRedis) {
  const attempts = createInbox<Attempt>()
  const worker = new Worker(
    'big',
    (job) =>
      new Promise((complete, reject) => {
        attempts.push({ job, complete, fail: (reason) => reject(new Error(reason)) })
      }),
    { connection: redis.connect({ maxRetriesPerRequest: null }) },
  )
  t.teardown(() => worker.close(true))
  await worker.waitUntilReady()
  return attempts
}

async function write({ job }: Attempt, events: number): Promise<void> {
  for (let n = 0; n < events; n++) await job.updateProgress({ output: `${n}`.padEnd(OUTPUT_BYTES, '.') })
}
