-- Sets a return address, or changes it: deliveries to an older one become void.
--
-- KEYS  job
-- ARGV  callback  filter  after
-- Returns 0 if there is no such job

if redis.call('EXISTS', KEYS[1]) == 0 then
  return 0
end
redis.call('HSET', KEYS[1], 'callback', ARGV[1], 'filter', ARGV[2], 'delivered', ARGV[3])
redis.call('HINCRBY', KEYS[1], 'generation', 1)
redis.call('HDEL', KEYS[1], 'delivering')
return 1
