import { cp, readdir, readFile, symlink } from 'node:fs/promises'
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { readConfig, variables } from '../src/config.ts'
import { generateSecret } from '../src/deliver/signature.ts'
import { findFreePort, spawnProcess, startRedis, type TestProcess } from './helper.ts'

const root = join(import.meta.dirname, '..')
const dockerfile = readFileSync(join(root, 'Dockerfile'), 'utf8').replaceAll('\\\n', '')
const compose = readFileSync(join(root, 'compose.yaml'), 'utf8').replaceAll(/^ *#.*\n/gm, '')

t.test('every path that is copied from the repository exists there and is not ignored', async (t) => {
  const ignored = await readFile(join(root, '.dockerignore'), 'utf8')
  const allowed = ignored.split('\n').flatMap((line) => (line.startsWith('!') ? [line.slice(1)] : []))
  for (const path of copied().flatMap(({ from, paths }) => (from ? [] : paths))) {
    t.ok(existsSync(join(root, path)), path)
    t.ok(allowed.includes(path), `${path} is in the build context`)
  }
  t.same(
    new Set(allowed),
    new Set(copied().flatMap(({ from, paths }) => (from ? [] : paths))),
    'and nothing else is',
  )
})

t.test('the build stage makes what the image runs', async (t) => {
  const dir = await build(t)
  const made = new Set(await filesIn(join(dir, 'dist')))
  const fromBuild = copied().flatMap(({ from, paths }) => (from === 'build' ? paths : []))
  t.same(fromBuild, ['/app/node_modules', '/app/dist'])
  for (const path of await filesIn(join(root, 'src'))) {
    const result = `src/${path.replace(/\.ts$/, '.js')}`
    t.ok(made.has(result), result)
  }

  await t.test('and together the containers serve a job', async (t) => {
    const redis = await startRedis(t)
    const port = String(await findFreePort())
    const [gateway, workers] = composeEnvironments().map((environment) => {
      const env = {
        ...imageEnvironment(),
        ...environment,
        HOST: '127.0.0.1',
        PORT: port,
        REDIS_URL: redis.url,
      }
      return spawnProcess(t, command('CMD'), { cwd: dir, env })
    })
    await gateway?.waitForLine(/listens on/)
    t.same(await healthcheck(t, port), { code: 0, signal: null }, 'healthy')

    const response = await fetch(`http://127.0.0.1:${port}/jobs`, {
      method: 'POST',
      headers: { 'content-type': 'application/json', prefer: 'wait=20' },
      body: '{"type":"echo","input":"hello"}',
    })
    t.match(await response.json(), { status: 'completed', result: 'hello' })

    for (const container of [gateway, workers]) {
      container?.child.kill('SIGTERM')
      t.same(await container?.exited, { code: 0, signal: null }, 'stops when it is told to')
    }
    t.same(await healthcheck(t, port), { code: 1, signal: null }, 'unhealthy')
  })
})

t.test('every npm script that the image is built with exists', async (t) => {
  const { scripts } = JSON.parse(await readFile(join(root, 'package.json'), 'utf8'))
  const called = [...dockerfile.matchAll(/npm run ([\w:]+)/g)].map((match) => match[1] ?? '')
  t.same(called, ['build'])
  for (const name of called) t.type(scripts[name], 'string', name)
})

t.test('the image does not run as root', async (t) => {
  t.equal([...dockerfile.matchAll(/^USER (.*)$/gm)].at(-1)?.[1], 'node')
})

t.test('the environment of every container is a configuration that starts', async (t) => {
  const image = imageEnvironment()
  t.same(image, { NODE_ENV: 'production', HOST: '0.0.0.0' })
  const environments = composeEnvironments()
  t.equal(environments.length, 2, 'of the gateways and of the workers')
  const known = variables.map(({ name }) => name)
  for (const environment of environments) {
    for (const name of Object.keys(environment)) t.ok(known.includes(name), name)
    t.equal(readConfig({ ...image, ...environment }).redisUrl, 'redis://redis:6379')
  }
  const roles = environments.flatMap((environment) => [...readConfig({ ...image, ...environment }).roles])
  t.same(new Set(roles), readConfig({}).roles, 'and together they have every role')
})

t.test('every service and volume that is referred to exists', async (t) => {
  const services = childrenOf('services')
  t.same(services, ['redis', 'gateway-1', 'gateway-2', 'workers'])
  const dependencies = [...compose.matchAll(/depends_on:\n +([\w-]+):/g)].map((match) => match[1] ?? '')
  const hosts = [...compose.matchAll(/redis:\/\/([\w-]+):/g)].map((match) => match[1] ?? '')
  t.same([dependencies.length, hosts.length], [2, 2])
  for (const name of [...dependencies, ...hosts]) t.ok(services.includes(name), name)
  const mounted = [...compose.matchAll(/^ +- ([\w-]+):\//gm)].map((match) => match[1] ?? '')
  t.same(mounted, childrenOf('volumes'))
})

t.test('every port is published on loopback only', async (t) => {
  const ports = [...compose.matchAll(/^ +- '([\d.:]+)'$/gm)].map((match) => match[1] ?? '')
  t.same(ports, ['127.0.0.1:3001:3000', '127.0.0.1:3002:3000'])
})

/** Every COPY of the Dockerfile: out of an earlier stage, or of the repository. */
function copied(): { from: string | undefined; paths: string[] }[] {
  const lines = [...dockerfile.matchAll(/^COPY (?:--from=(\w+) )?(.+) \S+$/gm)]
  return lines.map(([, from, paths = '']) => ({ from, paths: paths.split(' ') }))
}

function imageEnvironment(): Record<string, string> {
  const lines = [...dockerfile.matchAll(/^ENV (.*)$/gm)].map((match) => match[1] ?? '')
  return Object.fromEntries(
    lines
      .join(' ')
      .split(' ')
      .map((pair) => pair.split('=')),
  )
}

/** The blocks below `environment:`, with a secret where compose asks for one. */
function composeEnvironments(): Record<string, string>[] {
  const blocks = [...compose.matchAll(/^( +)environment:\n((?:\1 +.*\n)+)/gm)].map((match) => match[2] ?? '')
  return blocks.map((block) => {
    const entries = [...block.matchAll(/^ +(\w+): '?(.*?)'?$/gm)].map(([, name = '', value = '']) => [
      name,
      value.startsWith('${QUARTET_WEBHOOK_SECRET:?') ? generateSecret() : value,
    ])
    return Object.fromEntries(entries)
  })
}

/** The keys right below a top-level one. */
function childrenOf(key: string): string[] {
  const block = new RegExp(`^${key}:\\n((?: .*\\n|\\n)+)`, 'm').exec(compose)?.[1] ?? ''
  return [...block.matchAll(/^ {2}([\w-]+):/gm)].map((match) => match[1] ?? '')
}

/** The last instruction of that name in the Dockerfile, as a list of arguments. */
function command(instruction: 'CMD' | 'HEALTHCHECK'): string[] {
  const line = dockerfile.split('\n').findLast((line) => line.startsWith(instruction)) ?? ''
  return JSON.parse(line.slice(line.indexOf('[')))
}

function healthcheck(t: Test, port: string): TestProcess['exited'] {
  return spawnProcess(t, command('HEALTHCHECK'), { env: { PORT: port } }).exited
}

/** Runs the build on a copy of what the image is made of; the folder with that and `dist`. */
async function build(t: Test): Promise<string> {
  const dir = t.testdir()
  const paths = copied().flatMap(({ from, paths }) => (from ? [] : paths))
  for (const path of paths) await cp(join(root, path), join(dir, path), { recursive: true })
  await symlink(join(root, 'node_modules'), join(dir, 'node_modules'))
  const npm = spawnProcess(t, ['npm', 'run', 'build'], { cwd: dir })
  t.same(await npm.exited, { code: 0, signal: null }, 'the build succeeds')
  return dir
}

async function filesIn(dir: string): Promise<string[]> {
  const entries = await readdir(dir, { recursive: true, withFileTypes: true })
  return entries
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name).slice(dir.length + 1))
}
