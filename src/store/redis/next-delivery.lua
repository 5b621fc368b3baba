-- Settles a delivery and picks the next event for the return address. One is under way at a time.
--
-- KEYS  job  journal
-- ARGV  settled seq (0: none)  its generation
-- Returns {seq, generation}, seq 0 when nothing is due

local job, journal = KEYS[1], KEYS[2]
local SLICE = 100

local state = redis.call('HMGET', job, 'filter', 'delivered', 'delivering', 'generation', 'trimmed')
local filter, delivered, delivering, generation = state[1], tonumber(state[2]), tonumber(state[3]), state[4]
if not filter then
  return {0, 0}
end
if delivering then
  if ARGV[1] ~= state[3] or ARGV[2] ~= generation then
    return {delivering, tonumber(generation)}
  end
  redis.call('HDEL', job, 'delivering')
  delivered = delivering
end

local function matches(event)
  local type = event:match('^([%w.]+) ') or event:match('^{"seq":%d+,"type":"([%w.]+)"')
  return filter == '*' or filter:find(',' .. type .. ',', 1, true)
end

local trimmed = tonumber(state[5] or 0)
local at = math.max(delivered, trimmed)
while true do
  local events = redis.call('LRANGE', journal, at - trimmed, at - trimmed + SLICE - 1)
  for _, event in ipairs(events) do
    at = at + 1
    if matches(event) then
      redis.call('HSET', job, 'delivered', at - 1, 'delivering', at)
      return {at, tonumber(generation)}
    end
  end
  if #events < SLICE then
    redis.call('HSET', job, 'delivered', at)
    return {0, 0}
  end
end
