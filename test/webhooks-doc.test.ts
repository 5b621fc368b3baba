import { execFile } from 'node:child_process'
import { once } from 'node:events'
import { cpSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { dirname, join, resolve } from 'node:path'
import { text } from 'node:stream/consumers'
import { pathToFileURL } from 'node:url'
import { promisify } from 'node:util'
import t, { type Test } from 'tap'
import { createVerifier, type Verify } from '../clients/typescript/verify.ts'
import {
  generatePrivateKey,
  generateSecret,
  parseSigningKeys,
  publicKeyOf,
  sign,
} from '../src/deliver/signature.ts'
import { startGateway } from './gateway.ts'
import { findFreePort, spawnProcess, type TestProcess } from './helper.ts'
import { readPage } from './page.ts'
import { post, startRelay } from './relay.ts'

/* Every block of code in docs/WEBHOOKS.md is run as it stands there, or compared with what really comes. */

const execute = promisify(execFile)
const path = 'docs/WEBHOOKS.md'
const { page, block, untried } = readPage(path)
const gateway = await startGateway(t, { echo: { steps: ['echo'], attempts: 1 } })
await gateway.work('echo', async (job) => job.data as unknown)

/** Submits a job whose events go to that address. */
async function submitTo(url: string, events: readonly string[]): Promise<void> {
  const job = { type: 'echo', input: 'hello', callback_url: url, callback_events: events }
  const { status } = await gateway.post(job)
  if (status !== 202) throw new Error(`Expected 202, got ${status}`)
}

/** A folder with a block as a file, the verifier of its language beside it. */
function folderFor(t: Test, name: string): string {
  const folder = mkdtempSync(join(tmpdir(), 'quartet-webhooks-'))
  t.teardown(() => rmSync(folder, { recursive: true, force: true }))
  writeFileSync(join(folder, 'package.json'), '{"type":"module"}')
  writeFileSync(join(folder, name), block(name).code)
  symlinkSync(resolve('node_modules'), join(folder, 'node_modules'))
  const verifier = name.endsWith('.py') ? 'clients/python/verify.py' : 'clients/typescript/verify.ts'
  cpSync(verifier, join(folder, verifier.slice(verifier.lastIndexOf('/') + 1)))
  return folder
}

t.test('what arrives is what the page shows', async (t) => {
  const server = createServer((request, response) => void show(request, response))
  async function show(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const { method, url, httpVersion, rawHeaders } = request
    const headers = rawHeaders.map((each, index) => (index % 2 === 0 ? `${each}: ` : `${each}\n`)).join('')
    const body = await text(request)
    response.writeHead(204).end()
    server.emit('received', `${method} ${url} HTTP/${httpVersion}\n${headers}\n${body}\n`)
  }
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => {
    server.closeAllConnections()
    server.close()
  })
  const received = once(server, 'received') as Promise<[string]>
  await submitTo(`http://127.0.0.1:${(server.address() as AddressInfo).port}/quartet`, ['job.completed'])
  const [request] = await received
  t.equal(generalize(request), generalize(block('request').code))
})

/** Each of them tells what it has taken in. */
const receivers = {
  'receiver.ts': {
    command: ['node', '--import', 'tsx', 'receiver.ts'],
    inbox: async (_folder: string, receiver: TestProcess) => {
      await receiver.waitForLine(/ job\.completed$/)
      return receiver.lines.filter((line) => /^\d+ (job|step)\./.test(line))
    },
  },
  'receiver.py': {
    command: ['python3', 'receiver.py'],
    inbox: async (folder: string) =>
      (await ask(folder, 'inbox.db', 'SELECT event FROM inbox ORDER BY seq')).map(([event]) => {
        const { seq, type } = JSON.parse(String(event)) as { seq: number; type: string }
        return `${seq} ${type}`
      }),
  },
}

for (const [name, { command, inbox }] of Object.entries(receivers)) {
  t.test(`${name} takes each event of a job once, and nothing that is not signed`, async (t) => {
    const folder = folderFor(t, name)
    const port = String(await findFreePort())
    const receiver = spawnProcess(t, command, {
      cwd: folder,
      env: { PORT: port, WEBHOOK_KEYS: `${generateSecret()},${gateway.secret}` },
    })
    await receiver.waitForLine(/^listening on/)
    const url = `http://127.0.0.1:${port}/`
    const relay = await startRelay(t, url)
    await submitTo(relay.url, ['*'])
    await relay.complete
    const [first] = relay.passed
    if (!first) throw new Error('Expected webhooks, got none')
    t.equal(await post(url, first), 204, 'the same one again')
    t.equal(await post(url, { ...first, body: `${first.body} ` }), 401)
    await receiver.waitForLine(/refused: Expected a signature by one of our keys/)
    t.equal(await post(url, { ...first, headers: {} }), 401)
    await receiver.waitForLine(/refused: Expected a webhook-id header, got none/)
    t.strictSame(await inbox(folder, receiver), ['1 job.queued', '2 step.started', '3 job.completed'])
  })
}

t.test('the TypeScript, verify.ts included, passes a strict compiler', async (t) => {
  const compiler = [resolve('node_modules/.bin/tsc'), '--noEmit', '--strict', '--skipLibCheck']
  const options = [
    '--module',
    'nodenext',
    '--target',
    'es2023',
    '--types',
    'node',
    '--allowImportingTsExtensions',
  ]
  for (const name of ['receiver.ts', 'library.ts']) {
    const { exited, lines } = spawnProcess(t, [...compiler, ...options, name], { cwd: folderFor(t, name) })
    t.same(await exited, { code: 0, signal: null }, lines.join('\n'))
  }
})

t.test('library.ts verifies what the gateway signs, and no other body', async (t) => {
  const folder = folderFor(t, 'library.ts')
  const secret = generateSecret()
  process.env['WEBHOOK_KEYS'] = secret
  t.teardown(() => void delete process.env['WEBHOOK_KEYS'])
  const library = (await import(pathToFileURL(join(folder, 'library.ts')).href)) as {
    verify: (headers: Record<string, string>, body: string) => unknown
  }
  const { headers, body } = signedWith(secret)
  t.strictSame(library.verify(headers, body), JSON.parse(body))
  t.throws(() => library.verify(headers, `${body} `), { message: 'No matching signature found' })
})

t.test('what is kept of a job only moves forward', async (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'quartet-webhooks-'))
  t.teardown(() => rmSync(folder, { recursive: true, force: true }))
  await ask(folder, 'jobs.db', 'CREATE TABLE jobs (job_id TEXT PRIMARY KEY, seq INTEGER, status TEXT)')
  const seen = []
  for (const [seq, status] of [
    [2, 'running'],
    [1, 'queued'],
    [3, 'completed'],
    [2, 'running'],
    [3, 'completed'],
  ] as const) {
    await ask(folder, 'jobs.db', block('move-forward.sql').code, { job_id: 'a', seq, status })
    seen.push(...(await ask(folder, 'jobs.db', 'SELECT seq, status FROM jobs')))
  }
  t.strictSame(seen, [
    [2, 'running'],
    [2, 'running'],
    [3, 'completed'],
    [3, 'completed'],
    [3, 'completed'],
  ])
})

t.test('the commands for keys print what the page shows', async (t) => {
  const shared = block('secret')
  t.equal(generalize(await run(t, shared.code)), generalize(shared.shown))
  const pair = block('key-pair')
  t.equal(generalize(await run(t, pair.code)), generalize(pair.shown))
  const [privateKey = '', publicKey = ''] = pair.shown.split('\n')
  t.equal(publicKeyOf(privateKey), publicKey, 'the pair that is shown is one')
  const told = block('public-key')
  t.equal(await run(t, told.code, { PRIVATE_KEY: privateKey }), told.shown)
})

t.test('a tenant’s own keys are set as the page says', async (t) => {
  const env = { FOR_ALL: generateSecret(), ACMES: generatePrivateKey() }
  const setting = await run(t, `${block('tenants').code}printenv QUARTET_WEBHOOK_SECRET`, env)
  t.ok(isGenuine(createVerifier(publicKeyOf(env.ACMES)), setting, 'acme'))
  t.notOk(isGenuine(createVerifier(env.FOR_ALL), setting, 'acme'))
  t.ok(isGenuine(createVerifier(env.FOR_ALL), setting, 'default'))
})

t.test('a key is changed as the page says, and at no step is a webhook refused', async (t) => {
  const old = generateSecret()
  const script = `${block('rotate-both').code}echo "$NEW $QUARTET_WEBHOOK_SECRET"
${block('rotate-new').code}echo "$QUARTET_WEBHOOK_SECRET"`
  const [, next = '', both = '', alone = ''] =
    /^(\S+) (\S+)\n(\S+)\n$/.exec(await run(t, script, { QUARTET_WEBHOOK_SECRET: old })) ?? []
  const receivers = {
    old: createVerifier(old),
    next: createVerifier(next),
    both: createVerifier(`${old},${next}`),
  }
  t.ok(
    isGenuine(receivers.old, old) && isGenuine(receivers.old, both),
    'who has the old key, until the last step',
  )
  t.ok(
    isGenuine(receivers.next, both) && isGenuine(receivers.next, alone),
    'who has the new one, from the first',
  )
  t.ok([old, both, alone].every((setting) => isGenuine(receivers.both, setting)))
  t.notOk(isGenuine(receivers.old, alone))
})

t.test('one call redelivers the dead letters of an origin', async (t) => {
  let status = 410
  const server = createServer((request, response) => {
    request.resume()
    response.writeHead(status).end()
    server.emit('answered', status)
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => {
    server.closeAllConnections()
    server.close()
  })
  const ORIGIN = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  for (let nth = 1; nth <= 2; nth++) await submitTo(`${ORIGIN}/quartet`, ['job.completed'])
  const dead = `${gateway.url}/deliveries?status=dead&origin=${ORIGIN}`
  // Nobody is told when a try is recorded.
  while (((await (await fetch(dead)).json()) as { deliveries: unknown[] }).deliveries.length < 2);
  status = 204
  const answered = once(server, 'answered')
  const { code, shown } = block('redeliver')
  t.equal(await run(t, code, { GATEWAY: gateway.url, ORIGIN }), shown)
  t.same(await answered, [204])
})

t.test('every link leads somewhere', async (t) => {
  for (const [, file = '', anchor] of page.matchAll(/\]\((?!https?:)([^)#]*)(?:#([^)]+))?\)/g)) {
    const target = readFileSync(file === '' ? path : join(dirname(path), file), 'utf8')
    const anchors = [...target.matchAll(/^#+ (.*)$/gm)].map(([, title = '']) =>
      title
        .toLowerCase()
        .replaceAll(/[^\w\s-]/g, '')
        .replaceAll(' ', '-'),
    )
    if (anchor !== undefined) t.ok(anchors.includes(anchor), `${file}#${anchor}`)
  }
})

t.test('every block has been tried', async (t) => t.strictSame([...untried], []))

/** A webhook as the gateway would send it now, with that setting. */
function signedWith(setting: string, tenant = 'default') {
  const [id, timestamp, body] = [
    '0199a1b2-0000-7000-8000-000000000000.7',
    Math.floor(Date.now() / 1_000),
    '{"seq":7}',
  ]
  const signature = sign(parseSigningKeys(setting).of(tenant), { id, timestamp, body })
  const headers = { 'webhook-id': id, 'webhook-timestamp': String(timestamp), 'webhook-signature': signature }
  return { headers, body }
}

function isGenuine(verify: Verify, setting: string, tenant?: string): boolean {
  const { headers, body } = signedWith(setting.trim(), tenant)
  try {
    return verify(headers, body) !== ''
  } catch {
    return false
  }
}

/** Runs one statement in a database of SQLite, with the module of Python. @returns its rows */
async function ask(
  folder: string,
  file: string,
  statement: string,
  values: object = {},
): Promise<unknown[][]> {
  const script = `
import json, sqlite3, sys
with sqlite3.connect(sys.argv[1]) as database:
    print(json.dumps(database.execute(sys.argv[2], json.loads(sys.argv[3])).fetchall()))
`
  const { stdout } = await execute('python3', [
    '-c',
    script,
    join(folder, file),
    statement,
    JSON.stringify(values),
  ])
  return JSON.parse(stdout) as unknown[][]
}

/** Runs commands in the project's folder. @returns what they print */
async function run(t: Test, commands: string, env: Record<string, string> = {}): Promise<string> {
  const shell = spawnProcess(t, ['bash', '-euo', 'pipefail', '-c', commands], { env })
  t.same(await shell.exited, { code: 0, signal: null })
  return `${shell.lines.join('\n')}\n`
}

/** What differs from run to run: ids, times, ports and keys. */
function generalize(output: string): string {
  return output
    .replace(/[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}/g, '<id>')
    .replace(/\d{4}-\d\d-\d\dT[\d:.]+Z/g, '<time>')
    .replace(/127\.0\.0\.1:\d+/g, '127.0.0.1:<port>')
    .replace(/^(webhook-timestamp): \d{10}$/m, '$1: <time>')
    .replace(/(v1,|whsec_|whsk_|whpk_)[A-Za-z0-9+/]{43}=/g, '$1<base64>')
}
