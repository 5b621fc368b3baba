-- What the scripts that take new jobs in share; it is put in front of each of them. KEYS[1] and KEYS[2]: the sets of
-- those that wait, all of the type and the tenant's of them.

-- What is written once for all the jobs of a call, which are of one tenant and type.
local count = redis.call('SCARD', KEYS[1])
local own
local ids, dues, listed = {}, {}, {}

-- Ids of jobs that wait no more in the set of the tenant's: nodes of a version that does not know it, as there are while a
-- gateway is upgraded, leave those that they start. Some are looked at whenever it is full, so that it does not stay so.
local LOOKED_AT = 16
local left = {}
local function findLeft()
  for _, id in ipairs(redis.call('SRANDMEMBER', KEYS[2], LOOKED_AT)) do
    if redis.call('SISMEMBER', KEYS[1], id) == 0 then
      left[#left + 1] = id
    end
  end
end

-- Repeating it is harmless; a taken idempotency key stores nothing.
--
-- keys  job  journal  idempotency ('' without a key)
-- new   id  record  event  input  due  filter ('' without a return address)  callback  origin of the return address
--       follower: the node that follows it ('' without)  prefix: of job keys
--       limit: how many may wait  share: how many of the tenant's (nil for no bound of their own)
--       fingerprint  keep: ms
-- Returns 'accepted' | 'duplicate', id | 'mismatch', id | 'full' | 'tenant_full'
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
  if new.share then
    if not own then
      own = redis.call('SCARD', KEYS[2])
      if own >= new.share then
        findLeft()
        own = own - #left
      end
    end
    if own >= new.share then
      return 'tenant_full'
    end
  end
  if count >= new.limit then
    return 'full'
  end
  count = count + 1
  own = own and own + 1

  if hasKey then
    redis.call('SET', keys.idempotency, id .. ' ' .. new.fingerprint, 'PX', new.keep)
  end
  local fields = {'version', '1', 'record', new.record, 'input', new.input}
  if new.filter ~= '' then
    for _, field in ipairs({'filter', new.filter, 'callback', new.callback, 'origin', new.origin, 'delivered', '0',
      'generation', '1'}) do
      fields[#fields + 1] = field
    end
  end
  if new.follower ~= '' then
    fields[#fields + 1] = 'followers'
    fields[#fields + 1] = ' ' .. new.follower
  end
  redis.call('HSET', keys.job, unpack(fields))
  redis.call('RPUSH', keys.journal, new.event)
  ids[#ids + 1] = id
  dues[#dues + 1] = new.due
  dues[#dues + 1] = id
  listed[#listed + 1] = '0'
  listed[#listed + 1] = id
  return 'accepted'
end

local function writeForAll(due, list)
  if #left > 0 then
    redis.call('SREM', KEYS[2], unpack(left))
  end
  if #ids > 0 then
    redis.call('SADD', KEYS[1], unpack(ids))
    if own then
      redis.call('SADD', KEYS[2], unpack(ids))
    end
    redis.call('ZADD', due, unpack(dues))
    redis.call('ZADD', list, unpack(listed))
  end
end
