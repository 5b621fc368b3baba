import { Worker } from 'bullmq'
import { Cluster } from 'ioredis'
const connection = new Cluster([{ port: Number(process.env.REDIS_PORT) }])
new Worker('greet', async (job) => ({ hello: job.data.name }), { connection, prefix: '{bull}' })
