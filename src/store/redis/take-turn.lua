-- Gives a job that has come due, and waits now in a queue whose tenants take turns, its turn; in-turns.lua is in front, and
-- `changePriority` of BullMQ. One that a worker has, or has had, keeps what it has.
--
-- KEYS  as there
-- ARGV  prefix of the queue's keys  tenant  the client's priority  id

local prioritized, job = KEYS[4], ARGV[1] .. ARGV[4]
local score = redis.call('ZSCORE', prioritized, ARGV[4])
if not score or redis.call('HEXISTS', job, 'ats') == 1 then
  return
end
-- It must not itself be the one that is next.
redis.call('ZREM', prioritized, ARGV[4])
local _, close, take = openQueue(KEYS, ARGV[1], ARGV[2], tonumber(ARGV[3]))
local place = take()
close()
redis.call('ZADD', prioritized, score, ARGV[4])
changePriority({KEYS[10], KEYS[11], KEYS[2], prioritized, KEYS[7], KEYS[9], KEYS[1]}, {place, ARGV[1], ARGV[4], '0'})
