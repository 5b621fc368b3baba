import { setTimeout as delay } from 'node:timers/promises'
import { findFreePort } from '../../test/helper.ts'
import { atMostIs, type Figure } from '../figure.ts'
import { usedBy } from '../load/cpu.ts'
import { sideNames, spawnGateway } from '../sides.ts'

const MOST_MS = 1_000
const PATIENCE_MS = 20_000
const RETRY_MS = 2

/** From the start of the process until it has accepted a job; what is not there yet is asked again at once. */
export const start: Figure = {
  name: 'start',
  title: 'gateway start to first 202 (built, Redis up)',
  sides: sideNames,
  rounds: { full: 6, quick: 2 },
  rows: [
    { key: 'first_202_ms', label: 'ms', digits: 0, must: atMostIs(MOST_MS, '1,000 ms') },
    { key: 'cpu_ms', label: '… of which CPU', digits: 0 },
  ],
  async measure(t, { redis }, side) {
    const port = await findFreePort()
    const since = performance.now()
    const gateway = spawnGateway(t, side, redis, { PORT: String(port) })
    while (!(await isAccepted(port))) {
      if (performance.now() - since > PATIENCE_MS)
        throw new Error(`Expected a 202 in ${PATIENCE_MS} ms, got none`)
      await delay(RETRY_MS)
    }
    return { first_202_ms: performance.now() - since, cpu_ms: usedBy(gateway.pid) / 1_000 }
  },
}

async function isAccepted(port: number): Promise<boolean> {
  try {
    const answer = await fetch(`http://127.0.0.1:${port}/jobs`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: '{"type":"echo","input":{}}',
    })
    await answer.text()
    return answer.status === 202
  } catch (error) {
    if (error instanceof TypeError) return false
    throw error
  }
}
