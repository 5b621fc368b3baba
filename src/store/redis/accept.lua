-- Takes a new job in. Repeating it is harmless; a taken idempotency key stores nothing.
--
-- KEYS  job  journal  due  list  waiting  [idempotency key]
-- ARGV  id  record  event  input  due  filter ('' without a return address)  callback  job key prefix
--       how many may wait  origin of the return address ('' without)  [fingerprint  keep ms]
-- Returns {'accepted'} | {'duplicate', id} | {'mismatch', id} | {'full'}

local id = ARGV[1]

if KEYS[6] then
  local taken = redis.call('GET', KEYS[6])
  local owner, fingerprint = (taken or ''):match('^(%S+) (%S+)$')
  if owner and owner ~= id and redis.call('EXISTS', ARGV[8] .. owner) == 1 then
    return {fingerprint == ARGV[11] and 'duplicate' or 'mismatch', owner}
  end
end

if redis.call('EXISTS', KEYS[1]) == 1 then
  return {'accepted'}
end
if redis.call('SCARD', KEYS[5]) >= tonumber(ARGV[9]) then
  return {'full'}
end

if KEYS[6] then
  redis.call('SET', KEYS[6], id .. ' ' .. ARGV[11], 'PX', ARGV[12])
end
redis.call('SADD', KEYS[5], id)

redis.call('HSET', KEYS[1], 'version', 1, 'record', ARGV[2], 'input', ARGV[4])
if ARGV[6] ~= '' then
  redis.call('HSET', KEYS[1], 'filter', ARGV[6], 'callback', ARGV[7], 'origin', ARGV[10], 'delivered', 0,
    'generation', 1)
end
redis.call('RPUSH', KEYS[2], ARGV[3])
redis.call('ZADD', KEYS[3], ARGV[5], id)
redis.call('ZADD', KEYS[4], 0, id)
return {'accepted'}
