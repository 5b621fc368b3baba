-- A queue whose tenants take turns (docs/ARCHITECTURE.md "Fair order"): start-time fair queueing. A job's turn is the
-- number of the round in which it is served: the one after the turn of its tenant's last job, but none that is over.
-- BullMQ's priority is made of the client's, which counts for more, and the turn. BullMQ's script is in front of this as
-- `addPrioritizedJob`.
--
-- keys      of BullMQ's script (marker  meta  id  prioritized  delayed  completed  active  events  pc)  wait  paused  turns
-- prefix    of the queue's keys
-- tenant    whose jobs are to come
-- priority  the client's
-- Returns   a function that puts a job in: what BullMQ packs of it  data  JSON of its options, but for the brace at the end
--           one that ends it
--           and one that takes the next turn, as BullMQ's priority

-- Turns of each of the client's priorities; 2^21 times as many are still exact in a double.
local TURNS = 4294967296
-- BullMQ's score is the priority times this, and a counter.
local SCALE = 4294967296
-- Jobs at the head of a queue that are looked at to find one that has a turn of its own.
local HEAD = 100
-- Turns that are kept before others than those of this call are looked through for what is over.
local MANY = 1000
local LOOK_AT = 4

local function exact(number)
  return string.format('%.17g', number)
end

local function openQueue(keys, prefix, tenant, priority)
  local prioritized, turns = keys[4], keys[12]
  -- What is kept has the priority in it as well: the last turn of each tenant, and of all the one that is on.
  local first = priority * TURNS
  local own, clock = priority .. ' ' .. tenant, priority .. ' '

  -- The turn of the job that is next, not counting those that are tried again, whose turns are over. Nil if no other waits; 0 if
  -- none is near the head.
  local function nextTurn()
    local least, most = exact(first * SCALE), '(' .. exact((first + TURNS) * SCALE)
    for _, count in ipairs({1, HEAD}) do
      local head = redis.call('ZRANGEBYSCORE', prioritized, least, most, 'WITHSCORES', 'LIMIT', 0, count)
      for at = 1, #head, 2 do
        local place = math.floor(tonumber(head[at + 1]) / SCALE)
        if redis.call('HEXISTS', prefix .. head[at], 'ats') == 0 then
          return place - first
        end
      end
      if #head < 2 * count then
        return nil
      end
    end
    return 0
  end

  local function turnIn(score)
    return tonumber(score or first) - first
  end

  local now, last, isUsed, isOver = 0, 0, false, false
  local least, most = exact(first), '(' .. exact(first + TURNS)
  local next = nextTurn()
  if next then
    local kept = redis.call('ZMSCORE', turns, own, clock)
    now, last = math.max(next, turnIn(kept[2])), turnIn(kept[1])
  elseif redis.call('EXISTS', prioritized, keys[5], keys[7], keys[10]) > 0 then
    -- Everybody has had his turns, so that none needs to be kept but the latest.
    isOver = true
    now = turnIn(redis.call('ZREVRANGEBYSCORE', turns, most, least, 'WITHSCORES', 'LIMIT', 0, 1)[2])
  else
    -- Nothing will be tried again either: turns begin anew.
    least, most, isOver = '-inf', '+inf', true
  end

  local function take()
    last, isUsed = math.max(now, last + 1), true
    return first + last
  end
  -- Of the client's other priorities, those of which nothing waits, a few at a time: clients choose them.
  local function forgetOthers()
    for _, member in ipairs(redis.call('ZRANDMEMBER', turns, LOOK_AT)) do
      local other = tonumber(member:match('^%d+'))
      local from, to = other * TURNS, (other + 1) * TURNS
      if other ~= priority and
        redis.call('ZCOUNT', prioritized, exact(from * SCALE), '(' .. exact(to * SCALE)) == 0 then
        redis.call('ZREMRANGEBYSCORE', turns, exact(from), '(' .. exact(to))
      end
    end
  end

  local function put(job, data, options)
    local place = take()
    addPrioritizedJob(keys, {job, data, {json = options .. ',"priority":' .. exact(place) .. '}', priority = place}})
  end
  -- Nothing is written before this but by `put`: a Redis that is full refuses a script at its first write, if that needs memory.
  local function close()
    if not isUsed then
      return
    end
    -- Whose last turn is over is as if never heard of.
    redis.call('ZREMRANGEBYSCORE', turns, least, isOver and most or '(' .. exact(first + now))
    redis.call('ZADD', turns, exact(first + last), own, exact(first + now), clock)
    if redis.call('ZCARD', turns) > MANY then
      forgetOthers()
    end
  end
  return put, close, take
end
