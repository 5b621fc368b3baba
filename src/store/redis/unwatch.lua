-- Nobody at a node follows the job any more.
--
-- KEYS  job
-- ARGV  node

local followers = redis.call('HGET', KEYS[1], 'followers')
if not followers then
  return
end
local from, to = followers:find(' ' .. ARGV[1], 1, true)
if from then
  local others = followers:sub(1, from - 1) .. followers:sub(to + 1)
  if others == '' then
    redis.call('HDEL', KEYS[1], 'followers')
  else
    redis.call('HSET', KEYS[1], 'followers', others)
  end
end
