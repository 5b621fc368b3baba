import * as fc from 'fast-check'
import t from 'tap'
import { attemptOf, genuine, id, now, pairs, startVerifiers } from '../verifiers.ts'
import { runs } from './runs.ts'

for (const { language, verify, kinds } of startVerifiers(t)) {
  t.test(`${language}: a webhook with any byte changed is not genuine`, async () => {
    const part = fc.constantFrom('body' as const, 'id' as const, 'timestamp' as const, 'signature' as const)
    const change = fc.record({ part, at: fc.nat(), by: fc.integer({ min: 1, max: 255 }) })
    const property = fc.asyncProperty(fc.constantFrom(...kinds), change, async (kind, { part, at, by }) => {
      const parts = genuine(kind)
      const bytes = Buffer.from(parts[part])
      const place = at % bytes.length
      bytes[place] = (bytes[place] ?? 0) ^ by
      // A byte of a header is a character to both Node.js and Python.
      const changed = { ...parts, [part]: part === 'body' ? bytes : bytes.toString('latin1') }
      const verdict = await verify(attemptOf(changed))
      if (!('reason' in verdict)) throw new Error(`Expected a refusal, got ${JSON.stringify(verdict)}`)
    })
    await fc.assert(property, runs(2_000))
  })

  t.test(`${language}: whatever comes is refused, with a reason`, async () => {
    const value = fc.string({ unit: 'binary' })
    const header = fc.oneof(
      value,
      fc.constantFrom('webhook-id', 'webhook-timestamp', 'webhook-signature', id, String(now), 'v1,', 'v1a,'),
    )
    const headers = fc.oneof(
      fc.array(fc.tuple(header, header), { maxLength: 6 }),
      fc
        .tuple(header, header, header)
        .map(
          ([id, timestamp, signature]) => attemptOf({ ...genuine('v1'), id, timestamp, signature }).headers,
        ),
    )
    const keys = kinds.map((kind) => pairs[kind].verifying).join(',')
    const property = fc.asyncProperty(headers, fc.uint8Array(), async (headers, body) => {
      const verdict = await verify({ keys, headers, body, now })
      if (!('reason' in verdict)) throw new Error(`Expected a refusal, got ${JSON.stringify(verdict)}`)
    })
    await fc.assert(property, runs(1_000))
  })
}
