-- balance: books what an audit could not explain as `adjusted`, so that the conservation law holds from here on and
-- the adjustment stays visible. Sent twice, the second finds nothing to book.
--
-- KEYS  job, lease, scheduled, dead, stats, workers, ready:critical, ready:high, ready:normal, ready:low, inbox...
-- ARGV  every registered worker; KEYS ends with four inbox keys for each
-- Output  nothing if a worker has joined since (read the registry again), or {what was booked}
--#include counts registry
if not everybody_known(KEYS[6], ARGV) then return {} end
local c = count_lane(KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], {unpack(KEYS, 7, 10)}, {unpack(KEYS, 11)})
if c.imbalance ~= 0 then redis.call('HINCRBY', KEYS[5], 'adjusted', -c.imbalance) end
return {-c.imbalance}
