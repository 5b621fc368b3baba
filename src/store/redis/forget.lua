-- Deletes a job and everything of it.
--
-- KEYS  job  journal  tries  due  list
-- ARGV  id  'delivered' to let it stay if something of it is to be delivered by now
-- Returns 0 if it stays

if ARGV[2] == 'delivered' then
  local state = redis.call('HMGET', KEYS[1], 'delivering', 'redeliver')
  if state[1] or state[2] then
    return 0
  end
end
redis.call('DEL', KEYS[1], KEYS[2], KEYS[3])
redis.call('ZREM', KEYS[4], ARGV[1])
redis.call('ZREM', KEYS[5], ARGV[1])
return 1
