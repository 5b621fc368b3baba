/**
 * Server-sent events: the answer to POST is the job's own stream. Should it be cut, GET its events after the
 * last one seen; nothing is lost or told twice. (In a browser, EventSource does the second half by itself.)
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { baseUrl, credentials, fail, finalJob, finish, postJob, printEvent } from './job.ts'
import type { Job, JobEvent, Problem } from './job.ts'

let seq = 0
/** As the stream's last `retry` has it. */
let retryMs = 2_000
const accepted = await postJob({ accept: 'text/event-stream' })
const eventsUrl = new URL(`${accepted.headers.get('location')}/events`, baseUrl)

let job = await follow(accepted)
while (!job) {
  // Others were cut at the same moment.
  await sleep(retryMs * (0.5 + Math.random()))
  job = await resume()
}
finish(job)

async function resume(): Promise<Job | undefined> {
  const headers = { ...credentials, accept: 'text/event-stream', 'last-event-id': String(seq) }
  const response = await fetch(eventsUrl, { headers }).catch(() => undefined)
  if (!response || response.status === 429 || response.status >= 500) return undefined
  if (!response.ok) fail((await response.json()) as Problem)
  return follow(response)
}

/** Prints events until the terminal one, whose job it returns, or until the stream ends early. */
async function follow(response: Response): Promise<Job | undefined> {
  try {
    for await (const event of readEvents(response)) {
      seq = event.seq
      printEvent(event)
      const job = finalJob(event)
      if (job) return job
    }
  } catch (error) {
    console.error(`the stream was cut: ${(error as Error).message}`)
  }
  return undefined
}

/** As much of https://html.spec.whatwg.org/multipage/server-sent-events.html as Quartet's streams need. */
async function* readEvents({ body }: Response): AsyncGenerator<JobEvent> {
  const decoder = new TextDecoder()
  let rest = ''
  for await (const chunk of body ?? []) {
    const blocks = (rest + decoder.decode(chunk, { stream: true })).split(/\r?\n\r?\n/)
    // What follows the last blank line is an event in the making.
    rest = blocks.pop() ?? ''
    for (const block of blocks) {
      retryMs = Number(block.match(/^retry: ?(\d+)$/m)?.[1] ?? retryMs)
      const data = block.match(/^data: ?(.*)$/m)?.[1]
      if (data) yield JSON.parse(data) as JobEvent
    }
  }
}
