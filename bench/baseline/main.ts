import type { AddressInfo } from 'node:net'
import { Redis } from 'ioredis'
import { buildApp } from './app.ts'

/* The gateway that one would write by hand. `REDIS_URL` and `PORT` are all it is told. */

const url = process.env['REDIS_URL'] ?? ''
const app = await buildApp({ url, redis: new Redis(url, { maxRetriesPerRequest: null }) })
await app.listen({ port: Number(process.env['PORT'] ?? 0), host: '127.0.0.1', backlog: 4_096 })
console.log(`listens on http://127.0.0.1:${(app.server.address() as AddressInfo).port}`)
