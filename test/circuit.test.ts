import t from 'tap'
import { createCircuit, type Circuit } from '../src/call/circuit.ts'

const down = { downForMs: 0 }
const LONG_MS = 60_000
const forever = new AbortController().signal

t.test('nine failures in a row are let through, the tenth opens the circuit', async (t) => {
  const changes: (number | null)[] = []
  const circuit = createCircuit((openUntil) => changes.push(openUntil), [LONG_MS])
  await fail(circuit, 9)
  ;(await circuit.enter(forever))('up')
  await fail(circuit, 9)
  t.notOk(circuit.isOpen, 'a success in between begins the count anew')
  await fail(circuit, 1)
  t.ok(circuit.isOpen)
  t.equal(changes.length, 1)
  const waitMs = (changes[0] ?? 0) - Date.now()
  t.ok(waitMs > 0.7 * LONG_MS && waitMs <= 1.2 * LONG_MS, `open for a wait ± 20 %, for ${waitMs} ms`)
})

t.test('who waits for an open circuit can be called off', async (t) => {
  const circuit = createCircuit(() => undefined, [LONG_MS])
  await fail(circuit, 10)
  const over = new AbortController()
  const entered = circuit.enter(over.signal)
  over.abort(new Error('over'))
  await t.rejects(entered, { message: 'over' })
  await t.rejects(circuit.enter(over.signal), { message: 'over' })
})

t.test('when its time is over one call is let through, and its success lets all through', async (t) => {
  const changes: (number | null)[] = []
  const circuit = createCircuit((openUntil) => changes.push(openUntil), [1])
  await fail(circuit, 10)
  const entered: Awaited<ReturnType<Circuit['enter']>>[] = []
  const all = Array.from({ length: 5 }, async () => entered.push(await circuit.enter(forever)))
  await Promise.race(all)
  t.equal(entered.length, 1)
  entered[0]?.('unknown')
  await Promise.race(all.slice(1))
  t.equal(entered.length, 2, 'after one that tells nothing it is another’s turn')
  entered[1]?.('up')
  await Promise.all(all)
  t.equal(entered.length, 5)
  t.notOk(circuit.isOpen)
  t.equal(changes.at(-1), null)
})

t.test('a call that fails when the time is over keeps it open for longer, up to the last wait', async (t) => {
  const untils: number[] = []
  const circuit = createCircuit((openUntil) => untils.push(openUntil ?? 0), [1, 2, LONG_MS])
  await fail(circuit, 9)
  const late = await circuit.enter(forever)
  await fail(circuit, 1)
  late(down)
  t.equal(untils.length, 1, 'those that were under way when it opened do not prolong it')
  await fail(circuit, 2)
  t.equal(untils.length, 3)
  t.ok((untils[2] ?? 0) - Date.now() > 0.7 * LONG_MS)
})

t.test('a success that was under way when it opened closes it', async (t) => {
  const circuit = createCircuit(() => undefined, [LONG_MS])
  const late = await circuit.enter(forever)
  await fail(circuit, 10)
  late('up')
  t.notOk(circuit.isOpen)
  ;(await circuit.enter(forever))('up')
})

t.test(
  'a service that says when to come back is left alone until then, but no longer than a minute',
  async (t) => {
    for (const [downForMs, expectedMs] of [
      [30_000, 30_000],
      [3_600_000, 60_000],
    ] as const) {
      const untils: number[] = []
      const circuit = createCircuit((openUntil) => untils.push(openUntil ?? 0), [1])
      await fail(circuit, 9)
      ;(await circuit.enter(forever))({ downForMs })
      const waitMs = (untils[0] ?? 0) - Date.now()
      t.ok(waitMs > expectedMs - 5_000 && waitMs <= expectedMs)
    }
  },
)

async function fail(circuit: Circuit, times: number): Promise<void> {
  for (let n = 0; n < times; n++) (await circuit.enter(forever))(down)
}
