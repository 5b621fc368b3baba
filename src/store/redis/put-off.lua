-- Puts a job that has a time to wait for into a queue whose tenants take turns, without one: take-turn.lua gives it its turn when
-- that has come. BullMQ's script is in front of this as `addDelayedJob`. Repeating it changes nothing.
--
-- KEYS  of BullMQ's script
-- ARGV  prefix of the queue's keys  id  name  timestamp  data  delay (ms)  JSON of the options, but for the last brace
--       the priority of those that have no turn, behind all that have

if redis.call('EXISTS', ARGV[1] .. ARGV[2]) == 1 then
  return
end
addDelayedJob(KEYS, {
  {ARGV[1], ARGV[2], ARGV[3], ARGV[4]},
  ARGV[5],
  {delay = tonumber(ARGV[6]), priority = tonumber(ARGV[8]), json = ARGV[7] .. ',"priority":' .. ARGV[8] .. '}'},
})
