import { startMeter, type Watched } from './cpu.ts'
import { gather } from './crowd.ts'
import type { Report } from './report.ts'
import { speakers, type Round } from './speakers.ts'

export interface FanOutOptions {
  readonly urls: readonly string[]
  readonly watched: Watched
  /** Who tells the events. */
  readonly speaker: keyof typeof speakers
  readonly redisUrl: string
  readonly clients: number
  /** The first one is not measured. */
  readonly rounds: readonly Round[]
}

/** A crowd that follows one stream. Each must get every event of a round before the next begins. */
export async function fanOut(options: FanOutOptions): Promise<Report> {
  const { urls, watched, redisUrl, clients, rounds } = options
  const [url = ''] = urls
  const speaker = await speakers[options.speaker]({ url, redisUrl, rounds })
  const crowd = await gather(url, speaker.path, clients)
  let told = 0
  const run = async (round: Round) => {
    told += round.count
    const all = crowd.had(told * clients)
    await speaker.speak(round)
    await all
  }

  const [warmUp, ...measured] = rounds
  if (warmUp) await run(warmUp)
  const meter = startMeter(watched)
  for (const round of measured) await run(round)
  const { cpu, seconds } = meter.read()
  await speaker.finish()
  await crowd.ended(told)
  const count = measured.reduce((sum, round) => sum + round.count, 0) * clients
  return { count, seconds, cpu, values: { per_second: count / seconds } }
}
