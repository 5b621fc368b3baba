-- Takes back a job that nothing has happened to since it was accepted.
--
-- KEYS  job  journal  due  list  [idempotency key]
-- ARGV  id

if redis.call('HGET', KEYS[1], 'version') ~= '1' then
  return 0
end
redis.call('DEL', KEYS[1], KEYS[2])
redis.call('ZREM', KEYS[3], ARGV[1])
redis.call('ZREM', KEYS[4], ARGV[1])
if KEYS[5] and (redis.call('GET', KEYS[5]) or ''):match('^%S+') == ARGV[1] then
  redis.call('DEL', KEYS[5])
end
return 1
