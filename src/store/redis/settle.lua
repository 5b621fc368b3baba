-- Says how a try that was claimed has ended, and brings the job's next event into the queue. A claim that was lost
-- meanwhile (it ran out, the return address was changed) is only recorded.
--
-- KEYS  queue  tries  dead
-- ARGV  as in callbacks.lua  then id  token  origin  seq  'redelivery' or ''
--       how it ended: 'delivered' | 'dead' | 'gone' | 'retry' | 'postponed'  when it is to be tried again
--       what it tells of the origin: 'up' | 'down' | ''  jitter  the try, to be recorded
--       how many tries are kept  how long dead letters are kept

local id, token, origin, seq, redelivery = ARGV[6], ARGV[7], ARGV[8], tonumber(ARGV[9]), ARGV[10] ~= ''
local ending, at, health, jitter, try = ARGV[11], ARGV[12], ARGV[13], tonumber(ARGV[14]), ARGV[15]
local job = jobOf(id)

-- A try without when it was made and for how long (delivery-records.ts).
local function untimed(text)
  return (text:gsub('^(%[%d+,"[%w.]*"),%d+,%d+', '%1'))
end

-- Settled twice, when the answer to the first was lost, it tells nothing new.
if redis.call('ZREM', claimsOf(origin), id .. ' ' .. token) == 1 then
  judge(origin, health, jitter)
end
if redis.call('EXISTS', job) == 0 then
  plan(origin)
  return
end
local last = redis.call('LINDEX', KEYS[2], -1) or ''
-- There is no end to those that count for nothing: of some in a row that tell the same the last is enough.
if ending == 'postponed' and redis.call('HGET', job, 'postponed') and untimed(last) == untimed(try) then
  redis.call('LSET', KEYS[2], -1, try)
elseif last ~= try then
  redis.call('RPUSH', KEYS[2], try)
  redis.call('LTRIM', KEYS[2], -ARGV[16], -1)
end
if ending == 'postponed' then
  redis.call('HSET', job, 'postponed', 1)
else
  redis.call('HDEL', job, 'postponed')
end
local isCurrent = redis.call('HGET', job, 'claim') == token
if not isCurrent then
  plan(origin)
  return
end
redis.call('HDEL', job, 'claim')

local function unpick()
  redis.call('HDEL', job, 'delivering', 'attempts', 'since', 'at', 'coalescing')
end

local function bury()
  redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', now - ARGV[17])
  redis.call('ZADD', KEYS[3], now, id .. '.' .. seq)
  redis.call('PEXPIRE', KEYS[3], ARGV[17])
  redis.call('HSET', job, 'died', now, 'dead:' .. seq, origin)
end

if ending == 'delivered' then
  -- It may have been dead at an earlier return address.
  redis.call('ZREM', KEYS[3], id .. '.' .. seq)
  redis.call('HDEL', job, 'dead:' .. seq)
end
if redelivery then
  if ending == 'postponed' then
    redis.call('HSET', job, 'redeliver_at', at)
  else
    local asked = redis.call('HGET', job, 'redeliver') or ''
    local died = asked:match('^%d+(!?)') == '!'
    local rest = asked:match('^%d+!? (.+)$')
    if rest then
      redis.call('HSET', job, 'redeliver', rest, 'redeliver_at', now)
    else
      redis.call('HDEL', job, 'redeliver', 'redeliver_at')
    end
    if ending == 'delivered' then
      -- It is there again: so is what waited for it.
      redis.call('HDEL', job, 'gone')
    elseif died then
      bury()
    end
  end
elseif ending == 'retry' then
  redis.call('HINCRBY', job, 'attempts', 1)
  redis.call('HSET', job, 'at', at)
elseif ending == 'postponed' then
  redis.call('HSET', job, 'at', at)
else
  redis.call('HSET', job, 'delivered', seq)
  unpick()
  if ending ~= 'delivered' then
    bury()
  end
end
if ending == 'gone' then
  -- What waits to be tried again, beside a redelivery, waits for the return address as well.
  unpick()
  redis.call('HSET', job, 'gone', 1)
end
pick(id)
place(id)
plan(origin)
