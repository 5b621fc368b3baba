-- Gives a job that has come due in a queue whose tenants take turns its turn (put-off.lua); in-turns.lua is in front, and
-- `changePriority` of BullMQ. If a worker has it already, that is for when it is tried again. Repeating it changes nothing.
--
-- KEYS  as there
-- ARGV  prefix of the queue's keys  tenant  the client's priority  id  the priorities of those that have no turn yet

local prioritized, id = KEYS[4], ARGV[4]
local known, hasTurn = tonumber(redis.call('HGET', ARGV[1] .. id, 'priority') or 0), true
for at = 5, #ARGV do
  hasTurn = hasTurn and known ~= tonumber(ARGV[at])
end
if hasTurn then
  return
end
-- It must not itself be the one that is next.
local score = redis.call('ZSCORE', prioritized, id)
redis.call('ZREM', prioritized, id)
local _, close, take = openQueue(KEYS, ARGV[1], ARGV[2], tonumber(ARGV[3]))
local place = take()
close()
if score then
  redis.call('ZADD', prioritized, score, id)
end
changePriority({KEYS[10], KEYS[11], KEYS[2], prioritized, KEYS[7], KEYS[9], KEYS[1]}, {place, ARGV[1], id, '0'})
