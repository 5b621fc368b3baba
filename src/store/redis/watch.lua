-- Has the events of a job told to a node from now on, until the job has ended.
--
-- KEYS  job  journal
-- ARGV  node
-- Returns the seq that the job is at, -1 if it is not here

local state = redis.call('HMGET', KEYS[1], 'version', 'followers', 'trimmed')
if not state[1] then
  return -1
end
local followers = state[2] or ''
-- Of a job that has ended nothing more is to be told: only such have a time to live.
if not followers:find(ARGV[1], 1, true) and redis.call('PTTL', KEYS[1]) < 0 then
  redis.call('HSET', KEYS[1], 'followers', followers .. ' ' .. ARGV[1])
end
return redis.call('LLEN', KEYS[2]) + tonumber(state[3] or 0)
