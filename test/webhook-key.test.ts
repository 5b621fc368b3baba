import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { text } from 'node:stream/consumers'
import t from 'tap'
import { parseSigningKeys, publicKeyOf } from '../src/deliver/signature.ts'

/** Runs the command as package.json has it. */
async function makeKey(option?: string, input = '') {
  const command = ['run', '-s', 'webhook:key', '--', ...(option === undefined ? [] : [option])]
  const child = spawn('npm', command, { stdio: ['pipe', 'pipe', 'pipe'] })
  child.stdin.end(input)
  const closed = once(child, 'close') as Promise<[number | null]>
  const [stdout, stderr, [code]] = await Promise.all([text(child.stdout), text(child.stderr), closed])
  return { code, stdout, stderr }
}

t.test('a shared secret is made, another at each call', async (t) => {
  const { code, stdout } = await makeKey()
  t.equal(code, 0)
  t.match(stdout, /^whsec_\S{44}\n$/)
  t.equal(parseSigningKeys(stdout).of('default')[0]?.symmetricKeySize, 32)
  t.not((await makeKey()).stdout, stdout)
})

t.test('a private key is made, with the public key for receivers behind it', async (t) => {
  const { code, stdout } = await makeKey('--asymmetric')
  t.equal(code, 0)
  t.match(stdout, /^whsk_\S{44}\nwhpk_\S{44}\n$/)
  const [privateKey = '', publicKey] = stdout.split('\n')
  t.equal(publicKeyOf(privateKey), publicKey)
  t.strictSame(await makeKey('--public', `${privateKey}\n`), {
    code: 0,
    stdout: `${publicKey}\n`,
    stderr: '',
  })
})

t.test('what cannot be done is said in a line that shows no key', async (t) => {
  const { code, stdout, stderr } = await makeKey('--public', 'whsk_hunter2')
  t.strictSame({ code, stdout }, { code: 1, stdout: '' })
  t.match(stderr, /^Expected .*, got text that is not padded base64\n$/)
  t.notMatch(stderr, 'hunter2')
  t.match(await makeKey('--hunter2'), {
    code: 1,
    stdout: '',
    stderr: /^Expected --asymmetric for .*, got another option\n$/,
  })
})
