-- Writes changes of jobs, all of them or none, with the cursor of the source that told them (invariant 5).
--
-- KEYS  cursors  due  started  then for each change: job  journal  waiting
-- ARGV  source ('' without a fence)  from  to  prefix of the nodes' channels  the node that asks
--       due of an ended job that has a return address
--       then for each change: id  version  record  input operation ('' keep, '-' drop, '=' and the text)
--       due  expire at ('' while it goes on)  journal limit  type ('' while it waits)  number of events
--       for each event: text  what is kept of it: prefix, then the text's bytes from, to
-- Returns {'applied', id…} naming jobs whose return address is to be handed something
--       | {'fenced', cursor} | {'conflict', id…}

local HEAD = 6
local FIELDS = 9
local EVENT_FIELDS = 4

local source = ARGV[1]
if source ~= '' then
  local cursor = redis.call('HGET', KEYS[1], source) or ''
  if cursor ~= ARGV[2] then
    return {'fenced', cursor}
  end
end

local conflicts = {'conflict'}
local at = HEAD
for key = 4, #KEYS, 3 do
  if redis.call('HGET', KEYS[key], 'version') ~= ARGV[at + 2] then
    conflicts[#conflicts + 1] = ARGV[at + 1]
  end
  at = at + FIELDS + EVENT_FIELDS * tonumber(ARGV[at + FIELDS])
end
if #conflicts > 1 then
  return conflicts
end

-- Whether one of the events is for the return address and has to be handed over: progress joins what waits already.
local function wanted(filter, isBusy, events)
  for _, event in ipairs(filter and events or {}) do
    local type = event:match('^{"seq":%d+,"type":"([%w.]+)"')
    local isFor = filter == '*' or filter:find(',' .. type .. ',', 1, true)
    if isFor and not (isBusy and type == 'job.progress') then
      return true
    end
  end
  return false
end

-- What each node is told: a job's id and its events, or no more than the seq if it is the one that asks.
local told = {}
local function tell(followers, id, events)
  for node in followers:gmatch('%S+') do
    local lines = told[node] or {}
    told[node] = lines
    if node == ARGV[5] then
      lines[#lines + 1] = id .. ' ' .. events[#events]:match('^{"seq":(%d+)')
    else
      lines[#lines + 1] = id
      for _, event in ipairs(events) do
        lines[#lines + 1] = event
      end
    end
  end
end

local reply = {'applied'}
at = HEAD
for key = 4, #KEYS, 3 do
  local job, journal = KEYS[key], KEYS[key + 1]
  local id, version, record, input = ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], ARGV[at + 4]
  local due, expireAt, limit = ARGV[at + 5], ARGV[at + 6], tonumber(ARGV[at + 7])
  local ended = expireAt ~= ''
  local type = ARGV[at + 8]
  if type ~= '' and redis.call('SREM', KEYS[key + 2], id) == 1 then
    redis.call('HINCRBY', KEYS[3], type, 1)
  end
  local events = {}
  for i = 1, tonumber(ARGV[at + FIELDS]) do
    local first = at + FIELDS + EVENT_FIELDS * (i - 1) + 1
    events[i] = ARGV[first]
    redis.call('RPUSH', journal, ARGV[first + 1] .. events[i]:sub(ARGV[first + 2], ARGV[first + 3]))
  end
  at = at + FIELDS + EVENT_FIELDS * #events

  redis.call('HSET', job, 'version', version + 1, 'record', record)
  if input == '-' then
    redis.call('HDEL', job, 'input')
  elseif input ~= '' then
    redis.call('HSET', job, 'input', input:sub(2))
  end

  local excess = redis.call('LLEN', journal) - limit
  if excess > 0 then
    redis.call('LTRIM', journal, excess, -1)
    redis.call('HINCRBY', job, 'trimmed', excess)
  end

  local state = redis.call('HMGET', job, 'filter', 'delivering', 'followers')
  local filter, followers = state[1], state[3]
  if wanted(filter, state[2], events) then
    reply[#reply + 1] = id
  end
  -- A return address keeps an ended job due: the watchdog sees to it that the last event is handed over.
  redis.call('ZADD', KEYS[2], ended and filter and ARGV[6] or due, id)
  -- With one, how long it stays depends on its deliveries.
  if ended and not filter then
    redis.call('PEXPIREAT', job, expireAt)
    redis.call('PEXPIREAT', journal, expireAt)
  end
  if followers and #events > 0 then
    tell(followers, id, events)
    if ended then
      redis.call('HDEL', job, 'followers')
    end
  end
end
for node, lines in pairs(told) do
  redis.call('PUBLISH', ARGV[4] .. node, table.concat(lines, '\n'))
end

if source ~= '' then
  redis.call('HSET', KEYS[1], source, ARGV[3])
end
return reply
