import t from 'tap'
import { createMessageRate } from '../src/deliver/message-rate.ts'

t.test('so many may come at once, and then as many again in the time, evenly', async (t) => {
  let now = 5_000
  const mayCome = createMessageRate({ count: 10, perMs: 1_000 }, () => now)
  const come = (count: number) => Array.from({ length: count }, mayCome).filter(Boolean).length
  t.equal(come(15), 10)
  now += 99
  t.equal(come(1), 0)
  now += 1
  t.equal(come(2), 1)
  now += 550
  t.equal(come(9), 5, 'what is left of a token stays')
  now += 50
  t.equal(come(2), 1)
  now += 3_600_000
  t.equal(come(20), 10, 'and no more than that, however long nothing came')
})
