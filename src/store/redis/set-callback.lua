-- Sets a return address, or changes it: deliveries to an older one become void. The job becomes due, however late it
-- would be: the watchdog sees to it that what is to be delivered is handed over.
--
-- KEYS  job  due
-- ARGV  callback  filter  after  id  due
-- Returns 0 if there is no such job

if redis.call('EXISTS', KEYS[1]) == 0 then
  return 0
end
redis.call('HSET', KEYS[1], 'callback', ARGV[1], 'filter', ARGV[2], 'delivered', ARGV[3])
redis.call('HINCRBY', KEYS[1], 'generation', 1)
redis.call('HDEL', KEYS[1], 'delivering')
redis.call('ZADD', KEYS[2], 'XX', 'LT', ARGV[5], ARGV[4])
return 1
