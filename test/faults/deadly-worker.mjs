import { Worker } from 'bullmq'

// A plain worker that some jobs kill, as one would that runs out of memory or into a segmentation fault.
new Worker(
  'deadly',
  (job) => {
    if (job.data.deadly) process.kill(process.pid, 'SIGKILL')
    return 'done'
  },
  {
    connection: { port: Number(process.env.REDIS_PORT) },
    lockDuration: 1_000,
    stalledInterval: 1_000,
    maxStalledCount: Number(process.env.MAX_STALLED_COUNT),
  },
)
console.log('working')
