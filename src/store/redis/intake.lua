-- Takes new jobs of one tenant and type in, and puts each into its first queue as in-order.lua or
-- in-turns.lua has it, one of which is in front. A job that is refused, or that its key has made before, is not put anywhere.
--
-- KEYS  waiting  the tenant's of these  due  list  then those of openQueue
-- ARGV  job key prefix  journal key prefix  how many may wait  how many of the tenant ('' for no bound)
--       prefix of the queue's keys  name of BullMQ's jobs  JSON of their options, but for the last ones and the brace
--       tenant  the client's priority of all of them
--       then for each job: node that follows it ('' without)  id  timestamp  record  event  input  due  filter  callback  origin of the return address
--       idempotency key ('' without)  fingerprint  keep ms
-- Returns for each job 'accepted' | 'full' | 'duplicate <id>' | 'mismatch <id>' | 'tenant_full'

local HEAD = 9
local FIELDS = 13

local queueKeys = {}
for key = 5, #KEYS do
  queueKeys[key - 4] = KEYS[key]
end
local put, close = openQueue(queueKeys, ARGV[5], ARGV[8], tonumber(ARGV[9]))
local limit, share = tonumber(ARGV[3]), tonumber(ARGV[4])

local reply = {}
for at = HEAD, #ARGV - 1, FIELDS do
  local follower, id, timestamp, input = ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], ARGV[at + 6]
  local status, owner = accept({
    job = ARGV[1] .. id, journal = ARGV[2] .. id, idempotency = ARGV[at + 11],
  }, {
    id = id, record = ARGV[at + 4], event = ARGV[at + 5], input = input, due = ARGV[at + 7], filter = ARGV[at + 8],
    callback = ARGV[at + 9], prefix = ARGV[1], limit = limit, share = share, origin = ARGV[at + 10],
    follower = follower, fingerprint = ARGV[at + 12], keep = ARGV[at + 13],
  })
  if status == 'accepted' then
    local options = ARGV[7] .. ',"jobId":"' .. id .. '","timestamp":' .. timestamp
    put({ARGV[5], id, ARGV[6], timestamp}, input, options)
  end
  reply[#reply + 1] = owner and status .. ' ' .. owner or status
end
close()
writeForAll(KEYS[3], KEYS[4])
return reply
