import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { text } from 'node:stream/consumers'
import type { Test } from 'tap'

export interface Webhook {
  readonly headers: Record<string, string>
  readonly body: string
}

export async function post(url: string, { headers, body }: Webhook): Promise<number> {
  return (await fetch(url, { method: 'POST', headers, body })).status
}

/** Passes webhooks on, and keeps them. `complete` resolves once the terminal event is answered. */
export async function startRelay(t: Test, to: string) {
  const passed: Webhook[] = []
  const server = createServer((request, response) => {
    void pass()
    async function pass(): Promise<void> {
      const names = ['webhook-id', 'webhook-timestamp', 'webhook-signature']
      const headers = Object.fromEntries(names.map((name) => [name, String(request.headers[name])]))
      const webhook = { headers, body: await text(request) }
      passed.push(webhook)
      response.writeHead(await post(to, webhook)).end()
      if (webhook.body.includes('"type":"job.completed"')) server.emit('complete')
    }
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => {
    server.closeAllConnections()
    server.close()
  })
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/hook`
  return { url, passed, complete: once(server, 'complete') }
}
