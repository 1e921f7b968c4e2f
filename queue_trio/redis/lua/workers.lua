-- workers: everything the registry knows; changes nothing
--
-- KEYS  workers, worker_info, leases, control
-- ARGV  none
-- Output  {now, then per worker, the one heard of last first: worker, last heartbeat, its leases' length or nothing, info
--         or nothing, drain (0 or 1)}
--#include clock
local WORKERS, INFO, LEASES, CONTROL = unpack(KEYS, 1, 4)
local seen = redis.call('ZREVRANGE', WORKERS, 0, -1, 'WITHSCORES')
local reply = {now_ms()}
for i = 1, #seen, 2 do
  local worker = seen[i]
  reply[#reply + 1] = worker
  reply[#reply + 1] = seen[i + 1]
  reply[#reply + 1] = redis.call('ZSCORE', LEASES, worker)
  reply[#reply + 1] = redis.call('HGET', INFO, worker)
  reply[#reply + 1] = redis.call('HEXISTS', CONTROL, 'drain:' .. worker)
end
return reply
