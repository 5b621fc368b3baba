-- Takes a new job in.
--
-- KEYS  waiting  due  list  job  journal  [idempotency key]
-- ARGV  id  record  event  input  due  filter ('' without a return address)  callback  job key prefix
--       how many may wait  origin of the return address ('' without)  [fingerprint  keep ms]
-- Returns {'accepted'} | {'duplicate', id} | {'mismatch', id} | {'full'}

local status, owner = accept({job = KEYS[4], journal = KEYS[5], idempotency = KEYS[6] or ''}, {
  id = ARGV[1], record = ARGV[2], event = ARGV[3], input = ARGV[4], due = ARGV[5], filter = ARGV[6],
  callback = ARGV[7], prefix = ARGV[8], limit = tonumber(ARGV[9]), origin = ARGV[10], follower = '',
  fingerprint = ARGV[11], keep = ARGV[12],
})
writeForAll(KEYS[2], KEYS[3])
return {status, owner}
