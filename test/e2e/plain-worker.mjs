import { Worker } from 'bullmq'
const connection = { port: Number(process.env.REDIS_PORT) }
new Worker('greet', async (job) => ({ hello: job.data.name }), { connection })
