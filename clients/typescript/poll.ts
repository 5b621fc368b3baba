/**
 * Polling: ask how the job is. With `?after=<seq>` and `Prefer: wait` the answer comes as soon as there is
 * something new, so that this costs a request per change at most, and none in between.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import {
  baseUrl,
  credentials,
  describeProgress,
  fail,
  finish,
  isTerminal,
  postJob,
  printLine,
} from './job.ts'
import type { Job, Problem } from './job.ts'

let job = (await (await postJob()).json()) as Job
print(job)
while (!isTerminal(job.status)) {
  const next = await poll(job)
  if (next.seq > job.seq) print(next)
  job = next
}
finish(job)

/** The job once it has changed, or as it was when 20 s have passed or the gateway cannot tell. */
async function poll(job: Job): Promise<Job> {
  const url = new URL(`${job.links.self}?after=${job.seq}`, baseUrl)
  const response = await fetch(url, { headers: { ...credentials, prefer: 'wait=20' } }).catch(() => null)
  const body: unknown = await response?.json().catch(() => null)
  if (response?.ok && body) return body as Job
  const isTemporary = response?.status === 429 || (response?.status ?? 0) >= 500
  if (response && body && !isTemporary) fail(body as Problem)

  // Not at the very moment at which all others ask again.
  await sleep((Number(response?.headers.get('retry-after') ?? 1) + Math.random()) * 1_000)
  return job
}

function print({ seq, status, step, progress }: Job): void {
  printLine(seq, status, step?.name, describeProgress(progress ?? {}))
}
