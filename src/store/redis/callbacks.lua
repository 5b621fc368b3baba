-- What the scripts of the callback queue share; it is put in front of each of them.
--
-- KEYS[1]  queue: sorted set, origin → when there is something to do for it
-- ARGV[1]  now  ARGV[2]  how many tries of one origin may be under way  ARGV[3]  key prefix of jobs
-- ARGV[4]  key prefix of journals  ARGV[5]  the wait of a circuit that opens, by how often it has (a JSON array, ms)

local now, cap = tonumber(ARGV[1]), tonumber(ARGV[2])
local queue = KEYS[1]
local circuits = queue .. ':circuits'
local SLICE = 20
local COALESCE_MS = 500
local FAILURES_TO_OPEN = 10
-- Of an origin that is heard of no more nothing is remembered.
local REMEMBER_MS = 86400000

-- Sorted set: job → when its next try is due.
local function dueOf(origin)
  return queue .. ':due:' .. origin
end
-- Sorted set: job and token of a try under way → when it counts as lost.
local function claimsOf(origin)
  return queue .. ':claims:' .. origin
end
-- Hash: failures in a row; once open: until, how often in a row.
local function circuitOf(origin)
  return queue .. ':circuit:' .. origin
end
local function jobOf(id)
  return ARGV[3] .. id
end

-- How many tries may be under way to an origin; none, and until when, while its circuit is open; then one, to see.
local function allowance(origin)
  local open = tonumber(redis.call('HGET', circuitOf(origin), 'until'))
  if not open then
    return cap, nil
  end
  if now < open then
    return 0, open
  end
  return 1, nil
end

-- Says when there is something to do for an origin, and wakes who waits for it, if that is sooner than was known. What
-- waits for its turn keeps its place in the line; who has had it goes to the end, however much is left.
local function plan(origin, served)
  local first = redis.call('ZRANGE', dueOf(origin), 0, 0, 'WITHSCORES')[2]
  local at = tonumber(redis.call('ZRANGE', claimsOf(origin), 0, 0, 'WITHSCORES')[2])
  if first then
    local allowed, open = allowance(origin)
    if open or redis.call('ZCARD', claimsOf(origin)) < allowed then
      local next = math.max(tonumber(first), open or 0)
      at = math.min(at or next, next)
    end
  end
  if not at then
    redis.call('ZREM', queue, origin)
    return
  end
  at = math.max(at, now)
  local known = tonumber(redis.call('ZSCORE', queue, origin))
  if known and known < now + 1 and at == now and not served then
    return
  end
  -- Behind all that have waited since this millisecond began.
  if served and at == now then
    at = now + 0.5
  end
  redis.call('ZADD', queue, at, origin)
  if not known or at < known then
    redis.call('PUBLISH', queue, at)
  end
end

-- Puts a job where its next try belongs; while one is under way, that is for its end to do.
local function place(id)
  local job = jobOf(id)
  local state = redis.call('HMGET', job, 'origin', 'claim', 'delivering', 'at', 'redeliver', 'redeliver_at')
  local origin = state[1]
  if not origin or state[2] then
    return
  end
  local at = state[3] and tonumber(state[4] or now)
  if state[5] then
    at = math.min(at or math.huge, tonumber(state[6]))
  end
  if at then
    redis.call('ZADD', dueOf(origin), at, id)
  else
    redis.call('ZREM', dueOf(origin), id)
  end
  plan(origin)
end

local function typeOf(event)
  return event:match('^([%w.]+) ') or event:match('^{"seq":%d+,"type":"([%w.]+)"')
end

-- Calls `visit(seq, type)` with the events after `after` that the return address wants, until it returns true.
-- Returns the seq of the last event looked at.
local function wanted(journal, filter, trimmed, after, visit)
  local at = math.max(after, trimmed)
  while true do
    local events = redis.call('LRANGE', journal, at - trimmed, at - trimmed + SLICE - 1)
    for _, event in ipairs(events) do
      at = at + 1
      local type = typeOf(event)
      if (filter == '*' or filter:find(',' .. type .. ',', 1, true)) and visit(at, type) then
        return at
      end
    end
    if #events < SLICE then
      return at
    end
  end
end

-- From a progress on: the last one before something else, and whether there is something else.
local function lastProgress(journal, filter, trimmed, from)
  local last, ended = from, false
  wanted(journal, filter, trimmed, from - 1, function(seq, type)
    ended = type ~= 'job.progress'
    if not ended then
      last = seq
    end
    return ended
  end)
  return last, ended
end

-- Picks the job's next event for its return address, unless one is under way. Of progress one goes at a time, in
-- COALESCE_MS, and it is the latest by then; what it would hold up goes at once.
local function pick(id)
  local job, journal = jobOf(id), ARGV[4] .. id
  local state = redis.call('HMGET', job, 'filter', 'delivered', 'trimmed', 'delivering', 'gone', 'progressed', 'at')
  local filter, trimmed = state[1], tonumber(state[3] or 0)
  if not filter or state[5] then
    return
  end
  if state[4] then
    if tonumber(state[7]) > now and redis.call('HGET', job, 'coalescing') then
      local _, ended = lastProgress(journal, filter, trimmed, tonumber(state[4]))
      if ended then
        redis.call('HSET', job, 'at', now)
      end
    end
    return
  end
  local found, type
  local last = wanted(journal, filter, trimmed, tonumber(state[2]), function(...)
    found, type = ...
    return true
  end)
  if not found then
    redis.call('HSET', job, 'delivered', last)
    return
  end
  local at = now
  if type == 'job.progress' then
    local _, ended = lastProgress(journal, filter, trimmed, found)
    if not ended then
      at = math.max(now, tonumber(state[6] or 0) + COALESCE_MS)
    end
    redis.call('HSET', job, 'coalescing', 1)
  end
  redis.call('HSET', job, 'delivered', found - 1, 'delivering', found, 'attempts', 0, 'since', now, 'at', at)
end

-- What a try tells of its origin: `up`, `down`, or nothing.
local function judge(origin, health, jitter)
  local circuit = circuitOf(origin)
  if health == 'up' then
    redis.call('DEL', circuit)
    redis.call('ZREM', circuits, origin)
  elseif health == 'down' then
    local open = tonumber(redis.call('HGET', circuit, 'until'))
    -- Those that were under way when it opened tell nothing new.
    if open and now < open then
      return
    end
    if open or redis.call('HINCRBY', circuit, 'failures', 1) >= FAILURES_TO_OPEN then
      local waits = cjson.decode(ARGV[5])
      local times = redis.call('HINCRBY', circuit, 'opened', 1)
      local till = math.floor(now + waits[math.min(times, #waits)] * jitter)
      redis.call('HSET', circuit, 'until', till)
      -- Those that are over, of origins that are heard of no more.
      redis.call('ZREMRANGEBYSCORE', circuits, '-inf', now)
      redis.call('ZADD', circuits, till, origin)
    end
    redis.call('PEXPIRE', circuit, REMEMBER_MS)
  end
end
