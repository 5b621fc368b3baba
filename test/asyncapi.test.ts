import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { Ajv } from 'ajv'
import addFormats from 'ajv-formats'
import t from 'tap'
import { clientMessages, parseMessage } from '../src/deliver/websocket-message.ts'
import { closes } from '../src/deliver/websocket-session.ts'
import { asyncApi } from '../src/describe/asyncapi.ts'
import { createJudge } from './document.ts'

interface Message {
  readonly payload: object
  readonly examples: readonly { readonly payload: { readonly op: string } }[]
}
interface AsyncApi {
  readonly channels: { readonly socket: { readonly 'x-closes': Readonly<Record<string, string>> } }
  readonly components: { readonly messages: Readonly<Record<string, Message>> }
}
const document = asyncApi() as AsyncApi
const { messages } = document.components

t.test('the document is AsyncAPI 3.0', async (t) => {
  const path = createRequire(import.meta.url).resolve('@asyncapi/specs/schemas/3.0.0-without-$id.json')
  const ajv = new Ajv({ strict: false, allErrors: true })
  addFormats.default(ajv)
  const validate = ajv.compile(JSON.parse(readFileSync(path, 'utf8')) as object)
  validate(document)
  t.strictSame(validate.errors ?? [], [])
})

t.test('each message has an example that is one', async (t) => {
  const judge = createJudge(document)
  for (const [name, { examples }] of Object.entries(messages)) {
    for (const { payload } of examples) {
      t.equal(payload.op, name)
      t.strictSame(judge(`/components/messages/${name}/payload`, payload), [], name)
      if (name in clientMessages) t.strictSame(parseMessage(JSON.stringify(payload)), payload)
    }
    t.equal(examples.length, 1)
  }
})

t.test('each close is in it', async (t) => {
  t.same(
    Object.keys(document.channels.socket['x-closes']).toSorted(),
    Object.values(closes).map(String).toSorted(),
  )
})
