-- A page of a journal: what was trimmed, whether more follows, the record, and what is kept of the events behind a seq.
--
-- KEYS  job  journal
-- ARGV  after  limit  about how many bytes
-- Returns false | {trimmed, more (0 or 1), record, event…}

local job = redis.call('HMGET', KEYS[1], 'record', 'trimmed')
if not job[1] then
  return false
end

-- No more than will be taken is fetched, as far as the largest event until then can tell.
local SLICE = 64
-- About what an event's envelope adds to what is kept of it.
local ENVELOPE = 160
local largest = nil
local trimmed = tonumber(job[2] or 0)
local length = redis.call('LLEN', KEYS[2])
local first = math.max(ARGV[1] - trimmed, 0)
local last = math.min(first + ARGV[2], length) - 1
local room = tonumber(ARGV[3])

local reply = {trimmed, 0, job[1]}
local at = first
while at <= last and room > 0 do
  local slice = largest and math.max(1, math.min(SLICE, math.floor(room / (largest + ENVELOPE)))) or 1
  for _, event in ipairs(redis.call('LRANGE', KEYS[2], at, math.min(at + slice - 1, last))) do
    largest = math.max(largest or 0, #event)
    if room > 0 then
      reply[#reply + 1] = event
      room = room - #event - ENVELOPE
      at = at + 1
    end
  end
end
reply[2] = at < length and 1 or 0
return reply
