-- Sets a return address, or changes it: deliveries to an older one become void. The job becomes due, however late it
-- would be: the watchdog sees to it that it stays until everything is delivered.
--
-- KEYS  queue  due
-- ARGV  as in callbacks.lua  then id  callback  filter  origin  after  due
-- Returns 0 if there is no such job

local id = ARGV[6]
local job = jobOf(id)
if redis.call('EXISTS', job) == 0 then
  return 0
end
local before = redis.call('HGET', job, 'origin')
redis.call('HSET', job, 'callback', ARGV[7], 'filter', ARGV[8], 'origin', ARGV[9], 'delivered', ARGV[10])
redis.call('HINCRBY', job, 'generation', 1)
redis.call('HDEL', job, 'delivering', 'attempts', 'since', 'at', 'coalescing', 'gone', 'claim',
  'redeliver', 'redeliver_at')
redis.call('PERSIST', job)
redis.call('PERSIST', ARGV[4] .. id)
if before then
  redis.call('ZREM', dueOf(before), id)
  plan(before)
end
pick(id)
place(id)
redis.call('ZADD', KEYS[2], 'XX', 'LT', ARGV[11], id)
return 1
