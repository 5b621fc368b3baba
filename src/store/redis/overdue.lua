-- Jobs whose due time has passed, each put off for as long as the caller may take.
--
-- KEYS  due
-- ARGV  now  limit  put off to

local ids = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[1], 'LIMIT', 0, ARGV[2])
for _, id in ipairs(ids) do
  redis.call('ZADD', KEYS[1], ARGV[3], id)
end
return ids
