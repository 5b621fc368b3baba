-- Brings the next event of a job for its return address into the callback queue. Repeating it is harmless.
--
-- KEYS  queue
-- ARGV  as in callbacks.lua  then id

local id = ARGV[6]
local job = jobOf(id)
local callback = redis.call('HGET', job, 'callback')
if callback and redis.call('HSETNX', job, 'origin', callback:match('"url":"(%a+://[^/?#"]*)') or '') == 1 then
  -- As 0.1.0 left it, whose deliveries were in another queue.
  redis.call('HDEL', job, 'delivering')
end
pick(id)
place(id)
