-- What is kept of a job, for its tenant alone. Of another's no more is looked at than of one that there is not.
--
-- KEYS  job  list (its journal or its tries)
-- ARGV  JSON of the tenant  first and last index in the list  fields of the job
-- Returns false | {record, {field…}, {of the list…}}

local record = redis.call('HGET', KEYS[1], 'record')
if not record then
  return false
end

-- A record is an array, the tenant its second value (compact.ts); 0.1.0 kept an object.
local at = record:match('^%[%-?%d+,()')
local isOurs
if at then
  isOurs = record:sub(at, at + #ARGV[1]) == ARGV[1] .. ','
else
  isOurs = cjson.decode(record).tenant == cjson.decode(ARGV[1])
end
if not isOurs then
  return false
end

local fields = {}
for i = 4, #ARGV do
  fields[#fields + 1] = redis.call('HGET', KEYS[1], ARGV[i])
end
return {record, fields, redis.call('LRANGE', KEYS[2], ARGV[2], ARGV[3])}
