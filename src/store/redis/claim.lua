-- Claims tries that are due: no more of one origin than may be under way, and of all origins their share.
--
-- KEYS  queue
-- ARGV  as in callbacks.lua  then how many at most  until when a claim holds  how long a delivery may wait for its circuit
-- Returns {when there is more to do ('' for nothing known), then for each try:
--          {id, token, origin, seq, event or '', 'redelivery' or '', 'overdue' or '', generation, attempts, callback, record}}

local limit, expiry, patience = tonumber(ARGV[6]), ARGV[7], tonumber(ARGV[8])
local OVERDUE_AT_ONCE = 100
-- About so much text in one reply; what is left is claimed by the next call.
local REPLY_BYTES = 1048576
local bytes = 0
local reply = {''}

-- A node that claimed it has died: the try is due again, and counts for nothing.
local function reap(origin)
  for _, claim in ipairs(redis.call('ZRANGEBYSCORE', claimsOf(origin), '-inf', now)) do
    local id, token = claim:match('^(%S+) (%S+)$')
    redis.call('ZREM', claimsOf(origin), claim)
    if redis.call('HGET', jobOf(id), 'claim') == token then
      redis.call('HDEL', jobOf(id), 'claim')
      place(id)
    end
  end
end

local function claim(origin, id, overdue)
  local job, journal = jobOf(id), ARGV[4] .. id
  redis.call('ZREM', dueOf(origin), id)
  local state = redis.call('HMGET', job, 'record', 'filter', 'trimmed', 'delivering', 'generation', 'attempts',
    'redeliver', 'redeliver_at', 'coalescing', 'callback')
  local trimmed, seq, redelivery = tonumber(state[3] or 0), tonumber(state[4]), ''
  -- Asked for by hand, if that is what is due; a job that is gone has neither.
  if state[7] and (not seq or tonumber(state[8]) <= now) then
    seq, redelivery = tonumber(state[7]:match('^%d+')), 'redelivery'
  elseif not seq then
    return false
  elseif state[9] then
    seq = lastProgress(journal, state[2], trimmed, seq)
    redis.call('HSET', job, 'delivering', seq, 'delivered', seq - 1, 'progressed', now)
    redis.call('HDEL', job, 'coalescing')
  end
  local event = seq > trimmed and redis.call('LINDEX', journal, seq - 1 - trimmed)
  bytes = bytes + #state[1] + (event and #event or 0)
  local token = redis.call('HINCRBY', job, 'tries', 1)
  redis.call('HSET', job, 'claim', token, 'claimed', seq)
  redis.call('ZADD', claimsOf(origin), expiry, id .. ' ' .. token)
  reply[#reply + 1] = {id, token, origin, seq, event or '', redelivery, overdue or '', tonumber(state[5]),
    tonumber(state[6] or 0), state[10], state[1]}
  return true
end

-- An origin that stays away keeps what is for it for so long and no longer, though it costs no tries.
local function giveUp(origin)
  local found = 0
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', dueOf(origin), '-inf', now, 'LIMIT', 0, OVERDUE_AT_ONCE)) do
    local state = redis.call('HMGET', jobOf(id), 'since', 'redeliver_at')
    local since = tonumber(state[2] or state[1])
    if since and since + patience < now and bytes < REPLY_BYTES and claim(origin, id, 'overdue') then
      found = found + 1
    end
  end
  return found
end

local origins = redis.call('ZRANGEBYSCORE', queue, '-inf', '(' .. string.format('%.0f', now + 1), 'LIMIT', 0, limit)
local left = limit
for n, origin in ipairs(origins) do
  reap(origin)
  local isBroken = redis.call('HEXISTS', circuitOf(origin), 'until') == 1
  if not (isBroken and giveUp(origin) > 0) then
    local free = allowance(origin) - redis.call('ZCARD', claimsOf(origin))
    local share = math.min(free, math.ceil(left / (#origins - n + 1)))
    if share > 0 and bytes < REPLY_BYTES then
      for _, id in ipairs(redis.call('ZRANGEBYSCORE', dueOf(origin), '-inf', now, 'LIMIT', 0, share)) do
        if bytes >= REPLY_BYTES then
          break
        end
        if claim(origin, id) then
          left = left - 1
        end
      end
    end
  end
  plan(origin, true)
end
local nextAt = redis.call('ZRANGE', queue, 0, 0, 'WITHSCORES')[2]
reply[1] = nextAt and math.floor(nextAt) or ''
return reply
