-- note: adds an entry to the audit trail, and drops the oldest beyond limit
--
-- KEYS  session, trail
-- ARGV  seq, limit, entry
-- Output  1
--
-- Works with memory full, because it trims first: what operators do then must be noted too.
--#include session
local SESSION, TRAIL = unpack(KEYS, 1, 2)
local seq = tonumber(ARGV[1])
local again = recorded_reply(SESSION, seq)
if again then return again end

redis.call('LTRIM', TRAIL, 0, ARGV[2] - 2)
redis.call('LPUSH', TRAIL, ARGV[3])
record_reply(SESSION, seq, '1')
return '1'
