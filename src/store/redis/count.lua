-- Counts, in a window that begins with the first.
--
-- KEYS  count
-- ARGV  how many more  window ms
-- Returns {count, ms left}

local count = redis.call('INCRBY', KEYS[1], ARGV[1])
local left = redis.call('PTTL', KEYS[1])
if left < 0 then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
  left = tonumber(ARGV[2])
end
return {count, left}
