import { pino } from 'pino'
import t from 'tap'
import { createBacklogs } from '../src/backlog.ts'
import type { Backlog } from '../src/store/store.ts'

const log = pino({ level: 'silent' })

/** Backlogs on a clock and counts of the test's own. `tick` lets a second pass and counts. */
function open(nodes = 1) {
  let now = 1_000_000
  let count: Backlog = { waiting: 0, started: 0 }
  const store = { backlog: async (types: readonly string[]) => types.map(() => count) }
  const backlogs = createBacklogs(
    { store, types: ['x'], log },
    () => nodes,
    () => now,
  )
  return {
    backlogs,
    tick: async (next: Backlog, ms = 1_000): Promise<void> => {
      now += ms
      count = next
      const once = new AbortController()
      const watching = backlogs.watch(once.signal)
      once.abort()
      await watching
    },
    pass: (ms: number) => (now += ms),
  }
}

t.test(
  'clients that are refused are given the moments at which there is room, one after another',
  async (t) => {
    const { backlogs, tick } = open()
    await tick({ waiting: 100, started: 0 })
    await tick({ waiting: 100, started: 2 })
    t.strictSame(
      Array.from({ length: 8 }, () => backlogs.retryAfterS('x')),
      [1, 1, 2, 2, 3, 3, 4, 4],
      'two start a second',
    )
  },
)

t.test('each of several nodes gives out its share of the room', async (t) => {
  const { backlogs, tick } = open(2)
  await tick({ waiting: 100, started: 0 })
  await tick({ waiting: 100, started: 2 })
  t.strictSame(
    Array.from({ length: 4 }, () => backlogs.retryAfterS('x')),
    [1, 2, 3, 4],
  )
})

t.test('a tenant that met its own bound has the share of the room that it has of what waits', async (t) => {
  const { backlogs, tick } = open()
  await tick({ waiting: 100, started: 0 })
  await tick({ waiting: 100, started: 2 })
  const told = (tenant: string) => backlogs.retryAfterS('x', { tenant, waiting: 50 })
  t.strictSame(
    Array.from({ length: 4 }, () => told('a')),
    [1, 2, 3, 4],
    'one of the two that start a second',
  )
  t.equal(told('b'), 1, 'what one tenant was told puts off no other')
  t.equal(backlogs.retryAfterS('x'), 1)
  t.equal(
    Math.max(...Array.from({ length: 100 }, () => told('b'))),
    50,
    'all of its own have started by then',
  )
})

t.test('nobody waits longer than all that wait now take to start', async (t) => {
  const { backlogs, tick, pass } = open()
  await tick({ waiting: 10, started: 0 })
  await tick({ waiting: 10, started: 2 })
  const told = Array.from({ length: 100 }, () => backlogs.retryAfterS('x'))
  t.equal(Math.max(...told), 5)
  pass(60_000)
  t.equal(backlogs.retryAfterS('x'), 1, 'and what was given out is over some time')
})

t.test('the pace is that of the last ten seconds', async (t) => {
  const { backlogs, tick } = open()
  await tick({ waiting: 1_000, started: 0 })
  for (let s = 0; s < 20; s++) await tick({ waiting: 1_000, started: 1_000 })
  t.equal(backlogs.retryAfterS('x'), 30, 'nothing starts any more')
  await tick({ waiting: 1_000, started: 1_009 })
  t.strictSame([backlogs.retryAfterS('x'), backlogs.retryAfterS('x')], [1, 2])
})

t.test('of a type of which nothing is known yet, half a minute is to be waited', async (t) => {
  const { backlogs } = open()
  t.equal(backlogs.retryAfterS('x'), 30)
  t.equal(backlogs.retryAfterS('y'), 30)
})

t.test('a count that fails leaves the last one', async (t) => {
  let fails = false
  const store = {
    backlog: async (types: readonly string[]) => {
      if (fails) throw new Error('away')
      return types.map(() => ({ waiting: 7, started: 0 }))
    },
  }
  const backlogs = createBacklogs({ store, types: ['x'], log }, () => 1)
  for (fails of [false, true]) {
    const once = new AbortController()
    const watching = backlogs.watch(once.signal)
    once.abort()
    await watching
    t.equal(backlogs.waiting().get('x'), 7)
  }
})
