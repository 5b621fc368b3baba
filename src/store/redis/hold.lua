-- Says how many places a node has, and gives it more of those that are free.
--
-- KEYS  places  nodes (announce.lua)
-- ARGV  node  how many it has  how many more it asks for  how many there are  ttl ms
-- Returns how many more it has now

local node, held, more, free, ttl = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function isHere(other)
  local till = (redis.call('HGET', KEYS[2], other) or ''):match('^%d+')
  return till and tonumber(till) > now
end

if more > 0 then
  local known = redis.call('HGETALL', KEYS[1])
  for i = 1, #known, 2 do
    local count, said = known[i + 1]:match('^(%d+) (%d+)$')
    -- A node that was silent for a moment has its places when it is here again; what is too old is no more.
    if now - said >= ttl then
      redis.call('HDEL', KEYS[1], known[i])
    elseif known[i] ~= node and isHere(known[i]) then
      free = free - count
    end
  end
  more = math.max(0, math.min(more, free - held))
end

if held + more == 0 then
  redis.call('HDEL', KEYS[1], node)
else
  redis.call('HSET', KEYS[1], node, string.format('%.0f %.0f', held + more, now))
  redis.call('PEXPIRE', KEYS[1], ttl)
end
return more
