-- Takes a new job in.
--
-- KEYS  job  journal  due  list  waiting  [idempotency key]
-- ARGV  id  record  event  input  due  filter ('' without a return address)  callback  job key prefix
--       how many may wait  origin of the return address ('' without)  [fingerprint  keep ms]
-- Returns {'accepted'} | {'duplicate', id} | {'mismatch', id} | {'full'}

return {
  accept({
    job = KEYS[1], journal = KEYS[2], due = KEYS[3], list = KEYS[4], waiting = KEYS[5], idempotency = KEYS[6] or '',
  }, {
    id = ARGV[1], record = ARGV[2], event = ARGV[3], input = ARGV[4], due = ARGV[5], filter = ARGV[6],
    callback = ARGV[7], prefix = ARGV[8], limit = tonumber(ARGV[9]), origin = ARGV[10], fingerprint = ARGV[11],
    keep = ARGV[12],
  }),
}
