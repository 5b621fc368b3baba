-- Says that a node is here, and who else is. A node whose time is over is dropped.
--
-- KEYS  nodes
-- ARGV  node  ttl ms (0: it leaves)  JSON of its sources
-- Returns {now (ms), node, sources, node, sources…}

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

if ARGV[2] == '0' then
  redis.call('HDEL', KEYS[1], ARGV[1])
else
  redis.call('HSET', KEYS[1], ARGV[1], string.format('%.0f %s', now + ARGV[2], ARGV[3]))
end

local reply = {now}
local known = redis.call('HGETALL', KEYS[1])
for i = 1, #known, 2 do
  local till, sources = known[i + 1]:match('^(%d+) (.*)$')
  if tonumber(till) > now then
    reply[#reply + 1] = known[i]
    reply[#reply + 1] = sources
  else
    redis.call('HDEL', KEYS[1], known[i])
  end
end
return reply
