-- A queue that serves all jobs in the order in which they came. BullMQ's script is in front of this as `addStandardJob`.
--
-- keys     of BullMQ's script
-- Returns  a function that puts a job in: what BullMQ packs of it  data  JSON of its options, but for the brace at the end
--          and one that ends it

local function openQueue(keys)
  local function put(job, data, options)
    addStandardJob(keys, {job, data, {json = options .. '}'}})
  end
  return put, function() end
end
