-- repair: puts one id back into exactly one place, or out of all of them if it has no record
--
-- KEYS  job, lease, owner, scheduled, dead, wake, workers, tries, crashes, error, ready:critical, ready:high, ready:normal, ready:low
-- ARGV  id, places (as locate said), keep (leased, dead, ready, scheduled, nowhere), rank
-- Output  1 if done, 0 if the id's places have changed since they were read (look again)
--#include ready
local JOB, LEASE, OWNER, SCHEDULED, DEAD, WAKE, WORKERS = unpack(KEYS, 1, 7)
local TRIES, CRASHES, ERROR = unpack(KEYS, 8, 10)
local READY = {unpack(KEYS, 11, 14)}
local id, expected, keep, rank = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])

local places = ''
if redis.call('HEXISTS', JOB, id) == 1 then places = places .. 'j' end
if redis.call('ZSCORE', LEASE, id) then places = places .. 'l' end
if redis.call('HEXISTS', OWNER, id) == 1 then places = places .. 'o' end
if redis.call('ZSCORE', DEAD, id) then places = places .. 'd' end
for r = 0, 3 do
  if redis.call('ZSCORE', SCHEDULED, r .. ':' .. id) then places = places .. r end
  places = places .. string.rep(string.char(65 + r), #redis.call('LPOS', READY[r + 1], id, 'COUNT', 2))
end
if places ~= expected then return 0 end

if keep ~= 'leased' then
  redis.call('ZREM', LEASE, id)
  redis.call('HDEL', OWNER, id)
end
if keep ~= 'dead' then redis.call('ZREM', DEAD, id) end
for r = 0, 3 do
  redis.call('LREM', READY[r + 1], 0, id)
  if keep ~= 'scheduled' or r ~= rank then redis.call('ZREM', SCHEDULED, r .. ':' .. id) end
end
if keep == 'nowhere' then
  for _, hash in ipairs({JOB, TRIES, CRASHES, ERROR}) do redis.call('HDEL', hash, id) end
end
if keep == 'ready' then
  redis.call('LPUSH', READY[rank + 1], id)
  wake_fetchers(WAKE, WORKERS, 1)
end
return 1
