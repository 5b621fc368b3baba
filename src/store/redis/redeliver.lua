-- Has an event delivered once more, as soon as its turn comes. If it is being delivered anyway, that is made due now.
--
-- KEYS  queue  dead
-- ARGV  as in callbacks.lua  then id  seq
-- Returns 'scheduled' | 'under_way' | 'no_callback' | 'unknown' (no event of this job that was delivered or given up)

local id, seq = ARGV[6], tonumber(ARGV[7])
local job, journal = jobOf(id), ARGV[4] .. id
local state = redis.call('HMGET', job, 'filter', 'trimmed', 'delivered', 'delivering', 'claim', 'origin', 'redeliver',
  'claimed')
local filter, trimmed, origin = state[1], tonumber(state[2] or 0), state[6]
if not filter then
  return 'no_callback'
end

local isUnderWay = state[5] and tonumber(state[8]) == seq

-- Whoever asks says that it is worth a try: an open circuit lets this one through, before all that waits for it.
local function tryNow()
  place(id)
  local circuit = circuitOf(origin)
  if redis.call('HEXISTS', circuit, 'until') == 1 and not state[5] then
    redis.call('HSET', circuit, 'until', now)
    redis.call('ZREM', circuits, origin)
    redis.call('ZADD', dueOf(origin), 0, id)
    plan(origin)
  end
end

if tonumber(state[4]) == seq then
  if isUnderWay then
    return 'under_way'
  end
  redis.call('HSET', job, 'at', now, 'since', now)
  tryNow()
  return 'scheduled'
end

if (' ' .. (state[7] or '') .. ' '):find(' ' .. seq .. '!? ') then
  if isUnderWay then
    return 'under_way'
  end
  redis.call('HSET', job, 'redeliver_at', now)
  tryNow()
  return 'scheduled'
end
if seq <= trimmed or seq > tonumber(state[3]) then
  return 'unknown'
end
local event = redis.call('LINDEX', journal, seq - 1 - trimmed)
if not event or not (filter == '*' or filter:find(',' .. typeOf(event) .. ',', 1, true)) then
  return 'unknown'
end
local died = redis.call('HDEL', job, 'dead:' .. seq) == 1
redis.call('ZREM', KEYS[2], id .. '.' .. seq)
local entry = seq .. (died and '!' or '')
redis.call('HSET', job, 'redeliver', state[7] and state[7] .. ' ' .. entry or entry)
if not state[7] then
  redis.call('HSET', job, 'redeliver_at', now)
end
redis.call('PERSIST', job)
redis.call('PERSIST', journal)
tryNow()
return 'scheduled'
