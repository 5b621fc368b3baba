import { execFileSync, spawn } from 'node:child_process'
import { cpSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { text as readAll } from 'node:stream/consumers'
import t, { type Test } from 'tap'
import { variables } from '../src/config.ts'
import { findFreePort, spawnProcess, startRedis } from './helper.ts'

/*
 * The README's commands are run as they stand there, in a copy of the project, and what they print is compared with
 * what it shows. `UPDATE_README=1 npx tap test/readme.test.ts` writes what they printed into it.
 */

interface Block {
  /** `start`, `test`, `own`, `keys`, or '' for a command of a second terminal. */
  readonly kind: string
  readonly command: string
  /** The `text` block behind it, null without one. */
  readonly shown: string | null
}

const path = resolve('README.md')
const readme = readFileSync(path, 'utf8')
const blocks = [...readme.matchAll(/^```sh ?(\w*)\n([\s\S]*?)^```\n(?:\n```text\n([\s\S]*?)```\n)?/gm)].map(
  ([, kind = '', command = '', shown]): Block => ({ kind, command, shown: shown ?? null }),
)
const install = 'apt-get update && apt-get install -y redis-server && npm ci && '

t.test('the two commands install what they need and then run what package.json has', async (t) => {
  const { scripts } = JSON.parse(readFileSync('package.json', 'utf8')) as { scripts: Record<string, string> }
  const start = blocks.find(({ kind }) => kind === 'start')?.command ?? ''
  const test = blocks.find(({ kind }) => kind === 'test')?.command ?? ''
  t.ok(start.startsWith(install) && start.trimEnd().endsWith('npm start'))
  t.equal(test.trimEnd(), `${install}npm test`)
  t.ok(scripts['start'] && scripts['test'])
  for (const [, script = ''] of readme.matchAll(/npm run (?:-s )?([\w:]+)/g)) t.ok(scripts[script], script)
})

t.test('the configuration table is the one of the code', async (t) => {
  const expected = variables
    .map(
      ({ name, default: fallback, meaning }) =>
        `| \`${name}\` | ${fallback && `\`${fallback}\``} | ${meaning} |\n`,
    )
    .join('')
  if (process.env['UPDATE_README']) update(/(\| variable [^\n]*\n\|---[^\n]*\n)(?:\|[^\n]*\n)*/, expected)
  const [, , rows] =
    /(\| variable [^\n]*\n\|---[^\n]*\n)((?:\|[^\n]*\n)*)/.exec(readFileSync(path, 'utf8')) ?? []
  t.equal(rows, expected)
})

t.test('every file that the README links to is there', async (t) => {
  for (const [, link = ''] of readme.matchAll(/\]\((?!https?:)([^)#]+)\)/g))
    t.doesNotThrow(() => readFileSync(link))
})

t.test('every command prints what the README shows', async (t) => {
  const cwd = copyProject(t)
  const start = blocks.find(({ kind }) => kind === 'start')?.command.slice(install.length) ?? ''
  const gateway = spawnProcess(t, ['bash', '-c', `exec env PORT=0 ${start}`], { cwd })
  const [, url = ''] = await gateway.waitForLine(/listens on http:\/\/(\S+)/, 60_000)

  const commands = blocks.filter(({ kind }) => kind === '')
  const printed = await runAll(
    commands.map(({ command }) => command.replaceAll('localhost:3000', url)),
    { cwd, env: { QUARTET_URL: `http://${url}` } },
  )
  for (const [index, { command, shown }] of commands.entries()) check(t, command, shown, printed[index] ?? '')
  gateway.child.kill('SIGTERM')
  await gateway.exited
})

for (const [what, kind, itsPort] of [
  ['a worker of one’s own is put behind the gateway', 'own', '3001'],
  ['others are let in', 'keys', '3002'],
] as const) {
  t.test(`${what} as the README says`, async (t) => {
    const cwd = copyProject(t)
    const redis = await startRedis(t)
    const port = await findFreePort()
    const [block] = blocks.filter((each) => each.kind === kind)
    const { command = '', shown = null } = block ?? {}
    const own = command
      .replaceAll('redis://127.0.0.1:6379', redis.url)
      .replaceAll(itsPort, String(port))
      // The gateway's own output is not what the command is about.
      .replaceAll('npm start &', 'npm start >/dev/null 2>&1 &')
    const [printed = ''] = await runAll([own], { cwd, env: {} })
    t.match(printed, '"status":"completed"')
    check(t, command, shown, printed)
  })
}

/** Runs commands one after another in one shell, as in a terminal. @returns what each printed */
async function runAll(
  commands: readonly string[],
  { cwd, env }: { readonly cwd: string; readonly env: Record<string, string> },
): Promise<string[]> {
  const separator = '\u0001'
  const script = commands.map((command) => `${command}\nprintf '${separator}'\n`).join('')
  const { PATH = '', HOME = '' } = process.env
  const variables = Object.entries({ PATH, HOME, ...env }).map(([name, value]) => `${name}=${value}`)
  // A session of its own, so that what was started in the background can be ended with it.
  const shell = spawn('env', ['-i', ...variables, 'bash', '-euo', 'pipefail', '-c', `${script}exit 0`], {
    cwd,
    detached: true,
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  const code = new Promise<number | null>((done) => shell.once('exit', done))
  code.then(
    () => endGroup(shell.pid),
    () => undefined,
  )
  const output = await readAll(shell.stdout)
  if ((await code) !== 0) throw new Error(`Expected the README's commands to succeed, got ${output}`)
  return output.split(separator)
}

function endGroup(pid: number | undefined): void {
  try {
    if (pid !== undefined) process.kill(-pid, 'SIGTERM')
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error
  }
}

function check(t: Test, command: string, shown: string | null, printed: string): void {
  if (shown === null) return
  const text = printed.endsWith('\n') ? printed : `${printed}\n`
  if (process.env['UPDATE_README']) {
    update(command, (all) => all)
    const now = readFileSync(path, 'utf8')
    const at = now.indexOf('```text\n', now.indexOf(command)) + '```text\n'.length
    writeFileSync(path, now.slice(0, at) + text + now.slice(now.indexOf('```', at)))
    return
  }
  t.equal(generalize(text), generalize(shown), command)
}

function update(pattern: RegExp | string, change: string | ((all: string) => string)): void {
  const now = readFileSync(path, 'utf8')
  const next =
    typeof change === 'string' ? now.replace(pattern, (_, head: string) => head + change) : change(now)
  if (next !== now) writeFileSync(path, next)
}

/** What differs from run to run: ids, times, ports, and what the samples make of an id. */
function generalize(output: string): string {
  return output
    .replace(/[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}/g, '<id>')
    .replace(/"job_id":"[0-9a-f-]+$/gm, '"job_id":"<id>')
    .replace(/\d{4}-\d\d-\d\dT[\d:.]+Z/g, '<time>')
    .replace(/127\.0\.0\.1:\d+/g, '127.0.0.1:<port>')
    .replace(/QT-[0-9A-F]{12}/g, 'QT-<number>')
}

function copyProject(t: Test): string {
  const cwd = mkdtempSync(join(tmpdir(), 'quartet-readme-'))
  t.teardown(() => rmSync(cwd, { recursive: true, force: true }))
  const files = execFileSync('git', ['ls-files', '-z', '--cached', '--others', '--exclude-standard'], {
    encoding: 'utf8',
  })
  for (const file of files.split('\0').filter(Boolean)) cpSync(file, join(cwd, file))
  symlinkSync(resolve('node_modules'), join(cwd, 'node_modules'))
  return cwd
}
