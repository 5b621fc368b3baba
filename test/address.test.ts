import t from 'tap'
import { parseAddress } from '../src/store/redis/address.ts'

t.test('one Redis is its URL, or the path of its socket', async (t) => {
  t.same(parseAddress('redis://user:pw@host:1/2'), { kind: 'single', url: 'redis://user:pw@host:1/2' })
  t.same(parseAddress('unix:///run/redis.sock'), { kind: 'socket', path: '/run/redis.sock' })
})

t.test('a cluster is some of its nodes, and what all of them want to be told', async (t) => {
  t.same(parseAddress('redis+cluster://a:7000,b,[::1]:7002/'), {
    kind: 'cluster',
    seeds: [
      { host: 'a', port: 7000 },
      { host: 'b', port: 6379 },
      { host: '::1', port: 7002 },
    ],
    options: {},
  })
  t.same(parseAddress('rediss+cluster://user:p%40w@a'), {
    kind: 'cluster',
    seeds: [{ host: 'a', port: 6379 }],
    options: { username: 'user', password: 'p@w', tls: {} },
  })
  t.match(parseAddress('redis+cluster://:secret@a'), { options: { password: 'secret' } })
})

t.test('anything else is refused, and not shown', async (t) => {
  for (const text of [
    '',
    'hunter2',
    'http://hunter2',
    'redis+cluster://',
    'redis+cluster://a,,hunter2',
    'redis+cluster://a/hunter2',
    'redis+cluster://hunter2:x',
  ]) {
    t.throws(() => parseAddress(text), { message: /^Expected redis:\/\/host, / }, text)
    t.doesNotThrow(() => {
      try {
        parseAddress(text)
      } catch (error) {
        if (String(error).includes('hunter2')) throw error
      }
    })
  }
})
