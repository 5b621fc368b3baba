import { setTimeout as sleep } from 'node:timers/promises'
import { createChatWorker } from './chat.ts'
import { createCountdownWorker } from './countdown.ts'
import { createEchoWorker } from './echo.ts'
import { createInventoryWorker } from './inventory.ts'
import { createNotificationWorker } from './notification.ts'
import type { SampleWorkerOptions } from './options.ts'
import { createPaymentWorker } from './payment.ts'
import { createShippingWorker } from './shipping.ts'

/** Where the sample workers find their queues, and whom they tell of trouble. */
export interface StartSampleWorkersOptions extends SampleWorkerOptions {
  /** Gets what is wrong with a worker itself, such as a lost connection; no failing jobs. Default: logs it. */
  onError?: (error: Error) => void
  /** The queues to work for, as far as there is a sample for them. Default: all. */
  queues?: readonly string[]
}

/** The running sample workers. */
export interface SampleWorkers {
  /**
   * Takes no new jobs, and waits up to 4 s for those in hand. A job that takes longer goes on while the
   * process lives; ended with it, another worker does it over once its lock has expired. A connection that
   * was passed in stays open.
   */
  close(): Promise<void>
}

const graceMs = 4_000

/** One worker for every queue that `quartet.config.json` names. */
const samples = {
  inventory: createInventoryWorker,
  payment: createPaymentWorker,
  shipping: createShippingWorker,
  notification: createNotificationWorker,
  chat: createChatWorker,
  echo: createEchoWorker,
  countdown: createCountdownWorker,
}

/** Starts the sample workers. */
export function startSampleWorkers({
  onError = console.error,
  queues = Object.keys(samples),
  ...options
}: StartSampleWorkersOptions): SampleWorkers {
  const workers = Object.entries(samples)
    .filter(([queue]) => queues.includes(queue))
    .map(([, create]) => create(options))
  for (const worker of workers) worker.on('error', onError)

  return {
    async close() {
      const closed = Promise.all(workers.map((worker) => worker.close()))
      await Promise.race([closed, sleep(graceMs, undefined, { ref: false })])
    },
  }
}
