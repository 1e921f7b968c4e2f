-- bury: takes a worker out of the registry; its inbox -> the front of the ready lists
--
-- KEYS  workers, worker_info, leases, wake, control, inbox:0, inbox:1, inbox:2, inbox:3, ready:critical, ready:high, ready:normal, ready:low
-- ARGV  worker, silent_ms (0: whether it is silent or not, because it says itself that it goes), limit
-- Output  1 if it is gone; 0 if it has been heard of meanwhile, or its inbox holds more than limit (call again)
--#include clock ready
local WORKERS, INFO, LEASES, WAKE, CONTROL = unpack(KEYS, 1, 5)
local READY = {unpack(KEYS, 10, 13)}
local worker, silent_ms, limit = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])

local seen = redis.call('ZSCORE', WORKERS, worker)
if seen and silent_ms > 0 and tonumber(seen) > now_ms() - silent_ms then return 0 end
local moved, full = 0, false
for rank = 0, 3 do
  local ids = redis.call('RPOP', KEYS[6 + rank], limit)
  if ids then
    redis.call('LPUSH', READY[rank + 1], unpack(ids))
    moved = moved + #ids
    full = full or #ids == limit
  end
end
wake_fetchers(WAKE, WORKERS, moved)
if full then return 0 end
redis.call('ZREM', WORKERS, worker)
redis.call('HDEL', INFO, worker)
redis.call('ZREM', LEASES, worker)
-- One that was silent may only have been frozen: it must learn of it when it comes back.
if silent_ms == 0 then redis.call('HDEL', CONTROL, 'drain:' .. worker) end
return 1
