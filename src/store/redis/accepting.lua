-- What the scripts that take a new job in share; it is put in front of each of them.

-- Repeating it is harmless; a taken idempotency key stores nothing.
--
-- keys  job  journal  due  list  waiting  [idempotency key, '' without]
-- new   id  record  event  input  due  filter ('' without a return address)  callback  origin of the return address
--       limit: how many may wait  prefix: of job keys  fingerprint  keep: ms
-- Returns 'accepted' | 'duplicate', id | 'mismatch', id | 'full'
local function accept(keys, new)
  local id = new.id
  local hasKey = keys.idempotency ~= ''

  if hasKey then
    local taken = redis.call('GET', keys.idempotency)
    local owner, fingerprint = (taken or ''):match('^(%S+) (%S+)$')
    if owner and owner ~= id and redis.call('EXISTS', new.prefix .. owner) == 1 then
      return fingerprint == new.fingerprint and 'duplicate' or 'mismatch', owner
    end
  end

  if redis.call('EXISTS', keys.job) == 1 then
    return 'accepted'
  end
  if redis.call('SCARD', keys.waiting) >= new.limit then
    return 'full'
  end

  if hasKey then
    redis.call('SET', keys.idempotency, id .. ' ' .. new.fingerprint, 'PX', new.keep)
  end
  redis.call('SADD', keys.waiting, id)
  redis.call('HSET', keys.job, 'version', 1, 'record', new.record, 'input', new.input)
  if new.filter ~= '' then
    redis.call('HSET', keys.job, 'filter', new.filter, 'callback', new.callback, 'origin', new.origin,
      'delivered', 0, 'generation', 1)
  end
  redis.call('RPUSH', keys.journal, new.event)
  redis.call('ZADD', keys.due, new.due, id)
  redis.call('ZADD', keys.list, 0, id)
  return 'accepted'
end
