import t from 'tap'
import { boundFailures } from '../src/access/failures.ts'
import type { Asking } from '../src/access/access.ts'
import { anonymous, unauthorized, type Identity } from '../src/access/identity.ts'

/** Tries that the test decides, one after the other. */
function open(most: number) {
  const looks: { readonly good: (identity: Identity) => void; readonly bad: (error: Error) => void }[] = []
  const identify = boundFailures(
    async () => new Promise((resolve, reject) => looks.push({ good: resolve, bad: reject })),
    { count: most, perMs: 60_000 },
  )
  // Also one that a refusal answers at once.
  const ask = async (address = '192.0.2.1') => identify({ address } as Asking)
  return { looks, ask }
}

const turn = async () => new Promise(setImmediate)

t.test('of tries that come at once no more are looked at than may fail', async (t) => {
  const { looks, ask } = open(5)
  const answers = Promise.allSettled(Array.from({ length: 1_000 }, async () => ask()))
  await turn()
  t.equal(looks.length, 5)
  void ask('192.0.2.2')
  t.equal(looks.length, 6, 'those of another address are')
  for (const { bad } of looks.splice(0, 5)) bad(unauthorized('no'))
  const reasons = (await answers).map((each) => each.status === 'rejected' && each.reason.code)
  t.equal(looks.length, 1)
  t.equal(reasons.filter((code) => code === 'unauthorized').length, 5)
  t.equal(reasons.filter((code) => code === 'rate_limited').length, 995)
})

t.test('good credentials that come at once wait for each other, and are all let in', async (t) => {
  const { looks, ask } = open(2)
  const answers = Promise.all(Array.from({ length: 20 }, async () => ask()))
  let seen = 0
  for (await turn(); looks.length > 0; await turn()) {
    t.ok(looks.length <= 2)
    seen += looks.length
    for (const { good } of looks.splice(0)) good(anonymous)
  }
  t.equal(seen, 20)
  t.ok((await answers).every((identity) => identity === anonymous))
})

t.test('what fails for another reason counts for nothing', async (t) => {
  const { looks, ask } = open(1)
  for (let n = 0; n < 3; n++) {
    const answer = t.rejects(ask(), /away/)
    looks.pop()?.bad(new Error('The store is away'))
    await answer
  }
})
