import { setTimeout as sleep } from 'node:timers/promises'
import { Worker, type Job } from 'bullmq'
import { leases, type SampleWorkerOptions } from './options.ts'

interface Question {
  prompt: string
  delay_ms_per_token?: number
}

async function answer(job: Job<Question>) {
  const { prompt, delay_ms_per_token: delayMs = 40 } = job.data
  const reply = compose(prompt)
  const tokens = reply.match(/\S+\s*/g) ?? []
  for (const output of tokens) {
    await sleep(delayMs)
    await job.updateProgress({ output })
  }
  return { reply, tokens: tokens.length }
}

/** Stands in for a language model: has something to say about any prompt, and says the same every time. */
function compose(prompt: string): string {
  const words = prompt.match(/[\p{L}\p{N}'’-]+/gu) ?? []
  if (words.length === 0) return 'You said nothing that I can read, so I have nothing to answer.'

  const kind = prompt.trimEnd().endsWith('?') ? 'question' : 'remark'
  const size = words.length === 1 ? 'one word' : `${words.length} words`
  const longest = words.reduce((longest, word) => (word.length > longest.length ? word : longest))
  return [
    `You sent me a ${kind} of ${size}, and the one I keep thinking about is “${longest}”.`,
    `Read from its end, it goes: ${words.slice(-20).toReversed().join(' ')}.`,
    'There is no model behind this reply, but each of its tokens came to you as an event of its own,',
    'and if you lost the connection on the way, you can take up the stream at the very next one.',
  ].join(' ')
}

/** Streams a reply to `prompt` as `output` progress, token by token, and returns it as a whole in the end. */
export function createChatWorker(options: SampleWorkerOptions): Worker {
  return new Worker('chat', answer, { ...leases, concurrency: 50, ...options })
}
