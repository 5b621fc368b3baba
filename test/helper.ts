import { type ChildProcess, spawn } from 'node:child_process'
import { EventEmitter, once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { Redis, type RedisOptions } from 'ioredis'
import type { Test } from 'tap'

/** A Redis that belongs to one test. */
export interface TestRedis {
  /** `redis://127.0.0.1:<port>` */
  readonly url: string
  readonly port: number
  /** Its folder, with the append-only file; removed at teardown. */
  readonly dir: string
  /** The running server's process id; another one after `start()`. */
  readonly pid: number
  /** A client that needs no error listener and is closed at teardown. */
  connect(options?: Omit<RedisOptions, 'replyMapping'>): Redis
  /** SIGKILL, then wait until the process is gone. */
  stop(): Promise<void>
  /** Run it again on the same port and folder, with the data of its append-only file. */
  start(): Promise<void>
}

/** Which server the tests run: `valkey-server` is another. */
const program = process.env['REDIS_SERVER'] ?? 'redis-server'

/**
 * Run a private redis-server on a free port of 127.0.0.1, and end it when the test ends.
 * It never talks to a server that it did not start.
 *
 * @param options.args more arguments for redis-server, e.g. `['--maxmemory', '10mb']`
 * @throws when no redis-server is on the PATH: a test that needs Redis fails without one
 */
export async function startRedis(
  t: Pick<Test, 'teardown'>,
  { args = [] }: { args?: string[] } = {},
): Promise<TestRedis> {
  const dir = await mkdtemp(join(tmpdir(), 'quartet-redis-'))
  const clients: Redis[] = []
  let port = await findFreePort()
  let server: ChildProcess | undefined

  t.teardown(async () => {
    await Promise.all(clients.map(close))
    await stop()
    await rm(dir, { recursive: true, force: true })
  })

  for (let tries = 1; !(await launch()); tries++) {
    if (tries === 10) throw new Error(`Expected redis-server to start, got ${tries} failures`)
    port = await findFreePort()
  }

  return {
    url: `redis://127.0.0.1:${port}`,
    port,
    dir,
    get pid() {
      return server?.pid ?? -1
    },
    connect,
    stop,
    start,
  }

  function connect(options: Omit<RedisOptions, 'replyMapping'> = {}): Redis {
    const client = new Redis(port, '127.0.0.1', options)
    client.on('error', () => {})
    clients.push(client)
    return client
  }

  async function stop(): Promise<void> {
    if (server) await kill(server)
  }

  async function start(): Promise<void> {
    // A client's own outgoing socket may have borrowed the port meanwhile: try until it is given back.
    const deadline = Date.now() + 10_000
    while (!(await launch())) {
      if (Date.now() > deadline) throw new Error(`Expected port ${port} to be free again, got it in use`)
    }
  }

  /** False when the server ended instead of answering, most likely because the port is taken. */
  async function launch(): Promise<boolean> {
    server = spawn(program, [...serverArgs(port, dir), ...args], { stdio: 'ignore' })
    await once(server, 'spawn').catch((cause: unknown) => {
      throw new Error(`Expected ${program} on the PATH, got none (apt-get install -y ${program})`, {
        cause,
      })
    })
    guard(server)
    if (await isAnswering(server, port)) return true
    await kill(server)
    return false
  }
}

/** A process that a test started. */
export interface TestProcess {
  readonly child: ChildProcess
  readonly pid: number
  /** What it printed so far on stdout and stderr, line by line. */
  readonly lines: readonly string[]
  /** The first line that matches, printed already or yet to come; rejects when the process ends first. */
  waitForLine(pattern: RegExp, timeoutMs?: number): Promise<RegExpMatchArray>
  /** Resolves when the process is gone and its output is complete. */
  readonly exited: Promise<{ code: number | null; signal: NodeJS.Signals | null }>
}

/**
 * Start a process with a clean environment: PATH and HOME, and nothing else that is not in `env`.
 * At teardown it is killed by its id (its own children are not), and its output is shown if the test failed.
 *
 * @param args the program and its arguments; `node` is the Node.js that runs the test,
 *   e.g. `['node', '--import', 'tsx', 'src/main.ts']`
 */
export function spawnProcess(
  t: Pick<Test, 'teardown' | 'comment' | 'passing'>,
  args: readonly string[],
  { env = {}, cwd = process.cwd() }: { env?: Record<string, string>; cwd?: string } = {},
): TestProcess {
  const [program = 'node', ...rest] = args
  const { PATH = '', HOME = '' } = process.env
  const variables = Object.entries({ PATH, HOME, ...env }).map(([name, text]) => `${name}=${text}`)
  // Not by the `env` option: tap adds NODE_OPTIONS and more to whatever is given there.
  const clean = ['-i', ...variables, program === 'node' ? process.execPath : program, ...rest]
  const child = spawn('env', clean, { cwd, stdio: ['ignore', 'pipe', 'pipe'] })
  if (child.pid !== undefined) guard(child)
  const lines: string[] = []
  const printed = new EventEmitter().setMaxListeners(0)
  for (const stream of [child.stdout, child.stderr]) {
    createInterface(stream).on('line', (line) => {
      lines.push(line)
      printed.emit('line', line)
    })
  }
  const exited = once(child, 'close').then(([code, signal]) => {
    printed.emit('end')
    return { code, signal }
  })
  exited.catch((error: Error) => lines.push(error.message))
  t.teardown(async () => {
    await kill(child)
    // What it started itself may hold its output open for longer.
    child.stdout.destroy()
    child.stderr.destroy()
    await exited.catch(() => {})
    if (!t.passing()) t.comment(`${args.join(' ')}\n${lines.join('\n')}`)
  })
  return { child, pid: child.pid ?? -1, lines, waitForLine, exited }

  function waitForLine(pattern: RegExp, timeoutMs = 30_000): Promise<RegExpMatchArray> {
    const { promise, resolve, reject } = deferred<RegExpMatchArray>()
    const look = (line: string): void => {
      const match = line.match(pattern)
      if (match) resolve(match)
    }
    const giveUp = (what: string) => (): void =>
      reject(new Error(`Expected a line like ${pattern}, got ${what}:\n${lines.join('\n')}`))
    const end = giveUp('the end of the process')
    const timer = setTimeout(giveUp(`none in ${timeoutMs} ms`), timeoutMs)
    printed.on('line', look).on('end', end)
    lines.forEach(look)
    exited.then(end, end)
    return promise.finally(() => {
      clearTimeout(timer)
      printed.off('line', look).off('end', end)
    })
  }
}

function serverArgs(port: number, dir: string): string[] {
  const address = ['--port', String(port), '--bind', '127.0.0.1', '--dir', dir]
  const durability = ['--save', '', '--appendonly', 'yes', '--appendfsync', 'everysec']
  // A replica gets its copy at once: a master waits 5 s otherwise, for others that may come.
  return [...address, ...durability, '--maxmemory-policy', 'noeviction', '--repl-diskless-sync-delay', '0']
}

/** True once `server` itself answers on the port (and no stranger), false when it ended first. */
async function isAnswering(server: ChildProcess, port: number): Promise<boolean> {
  const client = new Redis({ host: '127.0.0.1', port, retryStrategy: () => 20, maxRetriesPerRequest: null })
  client.on('error', () => {})
  const ended = once(server, 'exit').then(() => '')
  if (hasEnded(server)) return false
  try {
    // The ready check of ioredis holds the command back while the append-only file is loading.
    const info = await Promise.race([client.info('server'), ended])
    return info.includes(`process_id:${server.pid}\r\n`)
  } finally {
    client.disconnect()
  }
}

/** Ends the child with this process, even when that one is itself killed: its pipe's end wakes the guard. */
function guard(child: ChildProcess): void {
  const script = 'read -r _; kill -9 "$1" 2>/dev/null'
  const watcher = spawn('sh', ['-c', script, 'guard', String(child.pid)], {
    stdio: ['pipe', 'ignore', 'ignore'],
    detached: true,
  })
  watcher.unref()
  child.once('exit', () => watcher.kill('SIGKILL'))
}

async function kill(child: ChildProcess): Promise<void> {
  if (child.pid === undefined || hasEnded(child)) return
  const ended = once(child, 'exit')
  child.kill('SIGKILL')
  await ended
}

async function close(client: Redis): Promise<void> {
  if (client.status === 'ready') await client.quit().catch(() => {})
  client.disconnect()
}

function hasEnded(child: ChildProcess): boolean {
  return child.exitCode !== null || child.signalCode !== null
}

/** A TCP port of 127.0.0.1 that nothing listens on. */
export async function findFreePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const address = server.address()
  server.close()
  await once(server, 'close')
  return typeof address === 'object' && address ? address.port : 0
}

function deferred<T>(): {
  promise: Promise<T>
  resolve: (value: T) => void
  reject: (error: Error) => void
} {
  let resolve!: (value: T) => void
  let reject!: (error: Error) => void
  const promise = new Promise<T>((resolvePromise, rejectPromise) => {
    resolve = resolvePromise
    reject = rejectPromise
  })
  return { promise, resolve, reject }
}
