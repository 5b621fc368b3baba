-- Puts a job into a queue whose tenants take turns; in-turns.lua is in front. Repeating it changes nothing.
--
-- KEYS  as there
-- ARGV  prefix of the queue's keys  tenant  the client's priority  id  name  timestamp  data
--       JSON of the options, but for the last brace

if redis.call('EXISTS', ARGV[1] .. ARGV[4]) == 1 then
  return
end
local put, close = openQueue(KEYS, ARGV[1], ARGV[2], tonumber(ARGV[3]))
put({ARGV[1], ARGV[4], ARGV[5], ARGV[6]}, ARGV[7], ARGV[8])
close()
