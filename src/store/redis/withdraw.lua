-- Takes back a job that nothing has happened to since it was accepted.
--
-- KEYS  job  journal  due  list  waiting  the tenant's of these
-- ARGV  id

if redis.call('HGET', KEYS[1], 'version') ~= '1' then
  return 0
end
redis.call('DEL', KEYS[1], KEYS[2])
redis.call('ZREM', KEYS[3], ARGV[1])
redis.call('ZREM', KEYS[4], ARGV[1])
redis.call('SREM', KEYS[5], ARGV[1])
redis.call('SREM', KEYS[6], ARGV[1])
return 1
