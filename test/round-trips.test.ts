import { readFile } from 'node:fs/promises'
import { Worker, type Job } from 'bullmq'
import t, { type Test } from 'tap'
import { alone, together, type Bound } from './bounds.ts'
import { BODY, modes, QUEUE, type Mode } from './counting-clients.ts'
import { startCountingProxy, type CountingProxy } from './counting-proxy.ts'
import { startGateway, type TestGateway } from './gateway.ts'
import { startRedis } from './helper.ts'

/*
 * What a job costs in commands, round trips and bytes, counted and not timed. The worker is led by hand: each thing that
 * it tells is told once all of the one before is over, so that nothing comes together by chance.
 */

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

const crowds = together.flatMap((each) => [false, true].map((isFair) => ({ ...each, isFair })))
for (const { jobs: count, isFair, ...most } of crowds) {
  t.test(`what comes together costs together: ${count} at a time${isFair ? ', in turns' : ''}`, async (t) => {
    const { gateway, proxy, lead } = await start(t, isFair)
    await live(t, { gateway, proxy, lead }, modes.nobody)
    const post = () => gateway.app.inject({ method: 'POST', url: '/jobs', payload: BODY })
    const answers = await Promise.all(Array.from({ length: count }, post))
    const ids = answers.map((answer) => answer.json<{ job_id: string }>().job_id)
    await proxy.settled()
    const accepting = proxy.countOf(ids)

    const release = proxy.holdReads()
    const jobs = await Promise.all(ids.map(() => lead.take()))
    await Promise.all(jobs.map((job) => lead.complete(job)))
    release()
    await lead.told(2 * count)
    const { commands, roundTrips } = proxy.countOf(ids)

    const collecting = {
      commands: commands.length - accepting.commands.length,
      roundTrips: roundTrips - accepting.roundTrips,
    }
    t.comment(`accepting: ${accepting.commands.length} commands in ${accepting.roundTrips} round trips`)
    t.comment(`collecting: ${collecting.commands} commands in ${collecting.roundTrips} round trips`)
    t.ok(accepting.commands.length <= most.accepting.commands, 'commands of accepting')
    t.ok(accepting.roundTrips <= most.accepting.roundTrips, 'round trips of accepting')
    t.ok(collecting.commands <= most.collecting.commands, 'commands of collecting')
    t.ok(collecting.roundTrips <= most.collecting.roundTrips, 'round trips of collecting')
  })
}

t.test('docs/PERFORMANCE.md shows the bounds', async (t) => {
  const page = await readFile('docs/PERFORMANCE.md', 'utf8')
  const [, table = ''] = /\| a job alone.*\n\|-.*\n((?:\|.*\n)+)/.exec(page) ?? []
  const shown = table
    .trimEnd()
    .split('\n')
    .map((row) => {
      const [commands, roundTrips, eventBytes] = row.split('|').slice(2).map(numberIn)
      return { commands, roundTrips, eventBytes }
    })
  t.same(shown, Object.values(alone), 'in the order of test/bounds.ts')
})

/** The number that a cell begins with, 0 if it is empty. */
function numberIn(cell: string): number {
  return Number(/[\d,]+/.exec(cell)?.[0].replaceAll(',', '') ?? 0)
}

interface Parts {
  readonly gateway: TestGateway
  readonly proxy: CountingProxy
  readonly lead: Awaited<ReturnType<typeof leadByHand>>
}

async function start(t: Test, fair = false): Promise<Parts> {
  const redis = await startRedis(t)
  const proxy = await startCountingProxy(t, redis.port)
  const types = { [QUEUE]: { steps: [QUEUE], fair } }
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
