-- Writes changes of jobs, all of them or none, with the cursor of the source that told them (invariant 5).
--
-- KEYS  cursors  due  started
-- ARGV  source ('' without a fence)  from  to  prefixes of the keys of jobs, of journals, of the sets of those that wait,
--       and of the nodes' channels  the node that asks  due of an ended job that has a return address
--       then for each change: id  version  the next one  record  input operation ('' keep, '-' drop, '=' and the text)
--       due  expire at ('' while it goes on)  journal limit  type if it waits no more ('' otherwise)  tenant  seq
--       number of events, and each of them as it is kept
-- Returns {'applied', id…} naming jobs whose return address is to be handed something
--       | {'fenced', cursor} | {'conflict', id…}

local HEAD = 9
local FIELDS = 12
-- Arguments that one call takes.
local SLICE = 1000

local source, jobs, journals, waiting = ARGV[1], ARGV[4], ARGV[5], ARGV[6]
if source ~= '' then
  local cursor = redis.call('HGET', KEYS[1], source) or ''
  if cursor ~= ARGV[2] then
    return {'fenced', cursor}
  end
end

local states = {}
local conflicts = {'conflict'}
local at = HEAD
while at < #ARGV do
  local id = ARGV[at + 1]
  local state = redis.call('HMGET', jobs .. id, 'version', 'filter', 'delivering', 'followers')
  if state[1] ~= ARGV[at + 2] then
    conflicts[#conflicts + 1] = id
  end
  states[#states + 1] = state
  at = at + FIELDS + tonumber(ARGV[at + FIELDS])
end
if #conflicts > 1 then
  return conflicts
end

local function typeOf(event)
  return event:match('^([%w.]+) ') or event:match('^{"seq":%d+,"type":"([%w.]+)"')
end

-- Whether one of the events is for the return address and has to be handed over: progress joins what waits already.
local function wanted(filter, isBusy, first, last)
  for i = first, last do
    local type = typeOf(ARGV[i])
    local isFor = filter == '*' or filter:find(',' .. type .. ',', 1, true)
    if isFor and not (isBusy and type == 'job.progress') then
      return true
    end
  end
  return false
end

-- What each node is told: a job's id and seq, and if it is not the one that asks, how many events, the record and them.
local told = {}
local function tell(followers, id, seq, record, first, last)
  for node in followers:gmatch('%S+') do
    local lines = told[node] or {}
    told[node] = lines
    if node == ARGV[8] then
      lines[#lines + 1] = id .. ' ' .. seq
    else
      lines[#lines + 1] = id .. ' ' .. seq .. ' ' .. (last - first + 1)
      lines[#lines + 1] = record
      for i = first, last do
        lines[#lines + 1] = ARGV[i]
      end
    end
  end
end

local reply = {'applied'}
local dues = {}
local started = {}
at = HEAD
for _, state in ipairs(states) do
  local filter, followers = state[2], state[4]
  local id, version, record, input = ARGV[at + 1], ARGV[at + 3], ARGV[at + 4], ARGV[at + 5]
  local due, expireAt, limit, type = ARGV[at + 6], ARGV[at + 7], tonumber(ARGV[at + 8]), ARGV[at + 9]
  local job, journal, ended = jobs .. id, journals .. id, expireAt ~= ''
  local tenant, seq = ARGV[at + 10], ARGV[at + 11]
  local first = at + FIELDS + 1
  local last = at + FIELDS + tonumber(ARGV[at + FIELDS])

  local length = 0
  for from = first, last, SLICE do
    length = redis.call('RPUSH', journal, unpack(ARGV, from, math.min(from + SLICE - 1, last)))
  end
  if length > limit then
    redis.call('LTRIM', journal, length - limit, -1)
    redis.call('HINCRBY', job, 'trimmed', length - limit)
  end

  if input == '' or input == '-' then
    redis.call('HSET', job, 'version', version, 'record', record)
  else
    redis.call('HSET', job, 'version', version, 'record', record, 'input', input:sub(2))
  end
  if input == '-' then
    redis.call('HDEL', job, 'input')
  end
  if followers and ended then
    redis.call('HDEL', job, 'followers')
  end
  if type ~= '' and redis.call('SREM', waiting .. type, id) == 1 then
    redis.call('SREM', waiting .. type .. ':' .. tenant, id)
    started[type] = (started[type] or 0) + 1
  end

  if filter and wanted(filter, state[3], first, last) then
    reply[#reply + 1] = id
  end
  -- A return address keeps an ended job due: the watchdog sees to it that the last event is handed over.
  dues[#dues + 1] = ended and filter and ARGV[9] or due
  dues[#dues + 1] = id
  -- With one, how long it stays depends on its deliveries.
  if ended and not filter then
    redis.call('PEXPIREAT', job, expireAt)
    redis.call('PEXPIREAT', journal, expireAt)
  end
  if followers and last >= first then
    tell(followers, id, seq, record, first, last)
  end
  at = last
end

for from = 1, #dues, SLICE do
  redis.call('ZADD', KEYS[2], unpack(dues, from, math.min(from + SLICE - 1, #dues)))
end
for type, count in pairs(started) do
  redis.call('HINCRBY', KEYS[3], type, count)
end
for node, lines in pairs(told) do
  redis.call('PUBLISH', ARGV[7] .. node, table.concat(lines, '\n'))
end
if source ~= '' then
  redis.call('HSET', KEYS[1], source, ARGV[3])
end
return reply
