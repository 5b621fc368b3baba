import { Webhook } from 'standardwebhooks'
import t from 'tap'
import { createVerifier } from '../../clients/typescript/verify.ts'
import { generatePrivateKey, generateSecret, publicKeyOf } from '../../src/deliver/signature.ts'
import { startGateway } from '../gateway.ts'
import { startRedis } from '../helper.ts'
import { isInvalid, isProblem, putCallback, startReceiver, submit } from './clients.ts'

const redis = await startRedis(t)
const types = { echo: { steps: ['echo'], attempts: 1 } }
const startWith = (keys: string) => startGateway(t, types, { redis, env: { QUARTET_WEBHOOK_SECRET: keys } })

t.test('a tenant with keys of its own gets signatures by these only', async (t) => {
  const [own, forAll, others] = [generateSecret(), generateSecret(), generateSecret()]
  const privateKey = generatePrivateKey()
  const gateway = await startWith(`${forAll},default:${own},default:${privateKey},acme:${others}`)
  await gateway.work('echo', async () => null)
  const receiver = await startReceiver(t)
  await submit(gateway, { type: 'echo', callback_url: receiver.url })
  const { headers, body } = await receiver.next()
  t.match(headers['webhook-signature'], /^v1,\S{44} v1a,\S{88}$/)
  t.ok(new Webhook(own).verify(body, headers))
  t.equal(createVerifier(publicKeyOf(privateKey))(headers, body), headers['webhook-id'])
  for (const secret of [forAll, others]) t.throws(() => new Webhook(secret).verify(body, headers))
  await gateway.app.close()
})

t.test('a tenant that there is no key for is told so, and can use no return address', async (t) => {
  const gateway = await startWith(`acme:${generateSecret()}`)
  const job = { type: 'echo', callback_url: 'http://127.0.0.1:9/hook' }
  const message =
    'cannot be used: this gateway has no key in QUARTET_WEBHOOK_SECRET to sign with for this tenant'
  const { errors } = await isProblem(t, await gateway.post(job), 'invalid')
  t.strictSame(errors, [{ path: '/callback_url', message }])
  const { job_id: id } = await submit(gateway, { type: 'echo' })
  await isInvalid(t, await putCallback(gateway, id, { callback_url: job.callback_url }), ['/callback_url'])
})
