-- Takes a new job in.
--
-- KEYS  waiting  the tenant's of these  due  list  job  journal  [idempotency key]
-- ARGV  id  record  event  input  due  filter ('' without a return address)  callback  job key prefix
--       how many may wait  how many of the tenant ('' for no bound)  origin of the return address ('' without)
--       [fingerprint  keep ms]
-- Returns {'accepted'} | {'duplicate', id} | {'mismatch', id} | {'full'} | {'tenant_full'}

local status, owner = accept({job = KEYS[5], journal = KEYS[6], idempotency = KEYS[7] or ''}, {
  id = ARGV[1], record = ARGV[2], event = ARGV[3], input = ARGV[4], due = ARGV[5], filter = ARGV[6],
  callback = ARGV[7], prefix = ARGV[8], limit = tonumber(ARGV[9]), share = tonumber(ARGV[10]),
  origin = ARGV[11], follower = '', fingerprint = ARGV[12], keep = ARGV[13],
})
writeForAll(KEYS[3], KEYS[4])
return {status, owner}
