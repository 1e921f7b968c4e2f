-- balance: books what an audit could not explain as `adjusted`, so that the conservation law holds from here on and
-- the adjustment stays visible. Sent twice, the second finds nothing to book.
--
-- KEYS  job, lease, scheduled, dead, stats, ready:critical, ready:high, ready:normal, ready:low, inbox...
-- ARGV  none
-- Output  what was booked
--#include counts
local c = count_lane(KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], {unpack(KEYS, 6, 9)}, {unpack(KEYS, 10)})
if c.imbalance ~= 0 then redis.call('HINCRBY', KEYS[5], 'adjusted', -c.imbalance) end
return -c.imbalance
