import t from 'tap'
import { startGateway } from '../gateway.ts'
import { ended, get, leadWorker, submit } from './clients.ts'

t.test('the metrics tell what was accepted, collected and is waiting, and of Node.js', async (t) => {
  const gateway = await startGateway(t, { x: { steps: ['a', 'b'] }, y: { steps: ['c'], max_waiting: 1 } })
  const attempts = [await leadWorker(gateway, 'a'), await leadWorker(gateway, 'b')]
  const { job_id: id } = await submit(gateway, { type: 'x' })
  for (const each of attempts) (await each.next()).complete()
  await ended(gateway, id)
  await submit(gateway, { type: 'y' })
  await gateway.post({ type: 'y' })

  const metrics = await read(gateway.url)
  t.match(metrics, {
    'quartet_jobs_accepted_total{type="x"}': 1,
    'quartet_jobs_accepted_total{type="y"}': 1,
    'quartet_jobs_refused_total{type="y"}': 1,
    'quartet_results_total{queue="a"}': 2,
    'quartet_results_total{queue="b"}': 2,
    'quartet_collecting{queue="a"}': 1,
    'quartet_collecting{queue="c"}': 1,
    quartet_nodes: 1,
  })
  t.ok((metrics['process_resident_memory_bytes'] ?? 0) > 0)
  for (let waiting: number | undefined; waiting !== 1;) {
    // Counted once a second.
    waiting = (await read(gateway.url))['quartet_jobs_waiting{type="y"}']
  }
  t.match((await get(gateway, '/metrics')).headers.get('content-type'), /^text\/plain/)
})

/** Sample → value. */
async function read(url: string): Promise<Record<string, number>> {
  const text = await (await fetch(`${url}/metrics`)).text()
  const lines = text.split('\n').filter((line) => line !== '' && !line.startsWith('#'))
  return Object.fromEntries(
    lines.map((line) => {
      const at = line.lastIndexOf(' ')
      return [line.slice(0, at), Number(line.slice(at + 1))] as const
    }),
  )
}
