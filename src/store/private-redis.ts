import { type ChildProcess, spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { closeSync, openSync } from 'node:fs'
import { chmod, mkdir, readFile, rm, writeFile } from 'node:fs/promises'
import { createServer } from 'node:net'
import { hostname } from 'node:os'
import { join, resolve } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { createConnect } from './redis/connect.ts'

/** Where a gateway without a Redis of the operator's keeps its own. */
export const PRIVATE_DIR = '.quartet'
const PROGRAMS = ['redis-server', 'valkey-server'] as const
const STOP_TIMEOUT_MS = 5_000
/** How long another gateway may take from claiming the folder to a server that listens. */
const CLAIM_TIMEOUT_MS = 2_000
/** sockaddr_un holds 108 bytes on Linux and 104 on macOS and the BSDs. */
const MAX_SOCKET_PATH_BYTES = 100

const INSTALL = `Expected redis-server or valkey-server on the PATH, got neither. Install one:
  Debian, Ubuntu:  apt-get install -y redis-server
  macOS:           brew install redis
or name one that runs elsewhere, e.g. with Docker:
  docker run -d -p 127.0.0.1:6379:6379 redis:7 redis-server --appendonly yes
  REDIS_URL=redis://127.0.0.1:6379 npm start`

/** A Redis that belongs to this process. */
export interface PrivateRedis {
  /** `unix:///absolute/path/redis.sock`, or `redis://:password@127.0.0.1:port` where that path is too long. */
  readonly url: string
  readonly pid: number
  /** Resolves when the server is gone: asked to by `stop()`, or by itself. */
  readonly exited: Promise<{ code: number | null; signal: NodeJS.Signals | null }>
  /** Ends the server with everything on disk; killed if that takes more than 5 s. */
  stop(): Promise<void>
}

/** The private Redis cannot be had. The message is for whoever started the gateway. */
export class PrivateRedisError extends Error {
  override readonly name = 'PrivateRedisError'
}

/** How clients reach the server, and the lines of its configuration that make it so. */
interface Address {
  readonly url: string
  readonly directives: readonly string[]
}

/** Written to `redis.json` by the gateway that has the folder. */
interface Claim {
  readonly gateway: number
  readonly host: string
  readonly url: string
}

/**
 * Runs a Redis (or Valkey) of its own, as a child process with an append-only file, and waits until it answers.
 * The terminal's Ctrl-C does not reach it; it ends with this process, even when that is killed.
 *
 * @param options.dir folder for its data, socket and log; made if need be, and closed to other users
 * @throws PrivateRedisError when neither is installed, when another gateway has the folder, or when the server ends at once
 */
export async function startPrivateRedis({ dir }: { dir: string }): Promise<PrivateRedis> {
  const home = resolve(dir)
  await mkdir(home, { recursive: true })
  await chmod(home, 0o700)
  const address = await chooseAddress(home)
  const release = await claim(dir, address.url)
  const child = await spawnServer(home, address).catch(async (error: unknown) => {
    await release()
    throw error
  })
  const exited = once(child, 'exit').then(async ([code, signal]) => {
    await release()
    return { code, signal }
  })
  const pid = child.pid ?? 0

  const answer = await Promise.race([waitUntilReady(address.url, exited), exited])
  if (typeof answer === 'object') throw new PrivateRedisError(await describeExit(home, answer))
  if (answer !== pid) {
    await stop()
    throw inUse(dir, answer)
  }
  return { url: address.url, pid, exited, stop }

  async function stop(): Promise<void> {
    child.ref()
    child.kill('SIGTERM')
    const timer = setTimeout(() => child.kill('SIGKILL'), STOP_TIMEOUT_MS)
    await exited
    clearTimeout(timer)
  }
}

/** The Redis that a running gateway has in the folder, or else one of its own for as long as it is needed. */
export async function joinPrivateRedis({
  dir,
}: {
  dir: string
}): Promise<Pick<PrivateRedis, 'url' | 'stop'>> {
  const claim = await readClaim(join(dir, 'redis.json'))
  const isThere = claim && (await findServer(claim.url)) !== undefined
  return isThere ? { url: claim.url, stop: async () => undefined } : startPrivateRedis({ dir })
}

async function chooseAddress(home: string): Promise<Address> {
  const socket = join(home, 'redis.sock')
  if (Buffer.byteLength(socket) <= MAX_SOCKET_PATH_BYTES) {
    const directives = ['port 0', `unixsocket ${JSON.stringify(socket)}`, 'unixsocketperm 700']
    return { url: `unix://${socket}`, directives }
  }
  const password = randomBytes(24).toString('hex')
  const port = await findFreePort()
  const directives = [`port ${port}`, 'bind 127.0.0.1', `requirepass ${password}`]
  return { url: `redis://:${password}@127.0.0.1:${port}`, directives }
}

/** Makes the folder this process's own, once no server of another gateway is left in it. */
async function claim(dir: string, url: string): Promise<() => Promise<void>> {
  const file = join(dir, 'redis.json')
  const release = (): Promise<void> => rm(file, { force: true })
  const deadline = Date.now() + CLAIM_TIMEOUT_MS
  while (!(await writeClaim(file, { gateway: process.pid, host: hostname(), url }))) {
    const other = await readClaim(file)
    const pid = other && (await findServer(other.url))
    const isOwned = !other || isRunning(other)
    if (isOwned && pid !== undefined) throw inUse(dir, pid)
    if (isOwned && Date.now() < deadline) {
      // It may be about to start its server, or it is long gone and its process id is another program's.
      await delay(50)
      continue
    }
    if (other && pid !== undefined) await shutDown(other.url)
    await release()
  }
  const pid = await findServer(url)
  if (pid !== undefined) {
    await release()
    throw inUse(dir, pid)
  }
  await rm(join(dir, 'redis.sock'), { force: true })
  return release
}

async function writeClaim(file: string, claim: Claim): Promise<boolean> {
  try {
    await writeFile(file, JSON.stringify(claim), { flag: 'wx', mode: 0o600 })
    return true
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EEXIST') return false
    throw error
  }
}

async function readClaim(file: string): Promise<Claim | undefined> {
  try {
    return JSON.parse(await readFile(file, 'utf8')) as Claim
  } catch {
    return undefined // gone again, or only half written
  }
}

/** Whether the gateway that made the claim lives. One on another host, or in another container, may. */
function isRunning({ gateway, host }: Claim): boolean {
  if (host !== hostname()) return true
  try {
    process.kill(gateway, 0)
    return true
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM'
  }
}

async function spawnServer(home: string, address: Address): Promise<ChildProcess> {
  const log = openSync(join(home, 'redis.log'), 'a', 0o600)
  try {
    for (const program of PROGRAMS) {
      // A process group of its own keeps Ctrl-C away: the gateway needs its store until it has closed.
      const child = spawn(program, ['-'], { detached: true, stdio: ['pipe', log, log] })
      if (!(await isSpawned(child))) continue
      // By stdin, so that no process list shows the password.
      child.stdin?.on('error', () => {}).end(configurationOf(home, address))
      child.unref()
      tieToThisProcess(child)
      return child
    }
  } finally {
    closeSync(log)
  }
  throw new PrivateRedisError(INSTALL)
}

async function isSpawned(child: ChildProcess): Promise<boolean> {
  try {
    await once(child, 'spawn')
    return true
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return false
    throw error
  }
}

function configurationOf(home: string, { directives }: Address): string {
  return [
    `dir ${JSON.stringify(home)}`,
    ...directives,
    'daemonize no',
    'appendonly yes',
    'save ""',
    'maxmemory-policy noeviction',
    '',
  ].join('\n')
}

/** When this process ends, in whatever way, its end of the pipe closes, and the shell stops the server. */
function tieToThisProcess(server: ChildProcess): void {
  const script = 'read -r _; kill -TERM "$1"'
  const tie = spawn('sh', ['-c', script, 'quartet-tie', String(server.pid)], {
    detached: true,
    stdio: ['pipe', 'ignore', 'ignore'],
  })
  tie.on('error', () => {}) // then the next start finds the server and stops it
  tie.unref()
  server.once('exit', () => tie.kill('SIGKILL'))
}

/** The process id of the server that answers at `url`, once it has loaded its data. Gives up with `exited`. */
async function waitUntilReady(url: string, exited: Promise<unknown>): Promise<number> {
  const redis = createConnect(url, () => {})('blocking')
  void exited.then(() => redis.disconnect())
  const info = await redis.info('server')
  redis.disconnect()
  return pidIn(info)
}

/** The process id of the server at `url`, or undefined when none answers there. */
async function findServer(url: string): Promise<number | undefined> {
  const redis = createConnect(url, () => {})('blocking')
  const timer = setTimeout(() => redis.disconnect(), CLAIM_TIMEOUT_MS)
  const closed = new Promise<string>((resolve) => redis.once('close', () => resolve('')))
  try {
    return pidIn(await Promise.race([redis.info('server'), closed])) || undefined
  } catch {
    return undefined
  } finally {
    clearTimeout(timer)
    redis.disconnect()
  }
}

/** Resolves when the server is gone: its socket closes with the process. */
async function shutDown(url: string): Promise<void> {
  const redis = createConnect(url, () => {})('blocking')
  const closed = new Promise<void>((resolve) => redis.once('close', resolve))
  try {
    await Promise.race([redis.call('SHUTDOWN'), closed])
  } finally {
    redis.disconnect()
  }
}

function pidIn(info: string): number {
  return Number(/^process_id:(\d+)/m.exec(info)?.[1] ?? 0)
}

function inUse(dir: string, pid: number): PrivateRedisError {
  return new PrivateRedisError(
    `Expected ${dir} to be free, got a redis-server already running there (pid ${pid})`,
  )
}

async function describeExit(
  home: string,
  { code, signal }: { code: number | null; signal: string | null },
): Promise<string> {
  const file = join(home, 'redis.log')
  const log = await readFile(file, 'utf8').catch(() => '')
  const how = signal ?? `exit code ${code}`
  return `Expected redis-server to start, got ${how} (${file}): ${log.trimEnd().split('\n').at(-1)}`
}

async function findFreePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const address = server.address()
  server.close()
  await once(server, 'close')
  if (address === null || typeof address === 'string')
    throw new PrivateRedisError('Expected a TCP port, got none')
  return address.port
}
