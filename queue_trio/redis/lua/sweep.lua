-- sweep: scheduled -> ready (due), leased -> ready (lease expired) | dead (poison: its crash budget is used up)
--
-- KEYS  control, lease, owner, crashes, error, scheduled, dead, wake, workers, leases, stats, unique, ready:critical, ready:high, ready:normal, ready:low
-- ARGV  lease_ms, max_crashes, limit, poison failure (JSON), recovery_ms
-- Output  {promoted, reclaimed ids, poisoned ids, hold_ms, workers silent for silent_ms, silent_ms}
--
-- Outage-aware: if nobody has swept for more than half a lease, nobody was able to renew either. Then expired leases
-- say nothing about their holders, and none is taken back for the longest lease that any worker takes, or for
-- recovery_ms (how long it may take to reconnect) if that is longer, so that live workers can renew first.
-- Needs no session: sent twice, the second finds nothing left to do. Works with memory full.
--#include clock memory ready promote history crashes
local CONTROL, LEASE, OWNER, CRASHES, ERROR, SCHEDULED, DEAD, WAKE, WORKERS, LEASES, STATS, UNIQUE = unpack(KEYS, 1, 12)
local READY = {unpack(KEYS, 13, 16)}
local MAX_SET_BACK, SILENT_LEASES = 10000, 3
local lease_ms, max_crashes, limit = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local now = now_ms()

open_with_a_freeing_write(OWNER)
local swept = tonumber(redis.call('HGET', CONTROL, 'swept_ms') or now)
local hold_until = tonumber(redis.call('HGET', CONTROL, 'hold_until_ms') or 0)
local longest = tonumber(redis.call('ZREVRANGE', LEASES, 0, 0, 'WITHSCORES')[2] or 0)
longest = math.max(longest, lease_ms)
local hold = math.max(longest, tonumber(ARGV[5]))
local silent_ms = SILENT_LEASES * longest
if now - swept > lease_ms / 2 then hold_until = now + hold end
if now < swept then
  -- The server's clock has gone back. What was reckoned from the old time must not reach further than from the new.
  hold_until = math.min(hold_until, now + hold)
  local beyond = redis.call('ZRANGEBYSCORE', LEASE, now + longest, '+inf', 'LIMIT', 0, MAX_SET_BACK)
  for _, id in ipairs(beyond) do redis.call('ZADD', LEASE, 'XX', now + longest, id) end
end
redis.call('HSET', CONTROL, 'hold_until_ms', hold_until)
redis.call('HSET', CONTROL, 'swept_ms', now)

local promoted = promote(SCHEDULED, READY, now, limit)
local forgotten = redis.call('ZRANGEBYSCORE', UNIQUE, '-inf', now, 'LIMIT', 0, limit)
if #forgotten > 0 then redis.call('ZREM', UNIQUE, unpack(forgotten)) end
if now < hold_until then
  wake_fetchers(WAKE, WORKERS, promoted)
  return {promoted, {}, {}, hold_until - now, {}, silent_ms}
end

local expired = redis.call('ZRANGEBYSCORE', LEASE, '-inf', now, 'LIMIT', 0, limit)
local reclaimed, poisoned, front = {}, {}, {}
if #expired > 0 then
  local owners = redis.call('HMGET', OWNER, unpack(expired))
  redis.call('ZREM', LEASE, unpack(expired))
  redis.call('HDEL', OWNER, unpack(expired))
  -- Backwards, because LPUSH reverses: the lease that expired first ends up foremost.
  for i = #expired, 1, -1 do
    local id = expired[i]
    local rank = tonumber(string.sub(owners[i] or '2', 1, 1))
    if charge_crash(CRASHES, id, string.sub(owners[i] or '', 3)) > max_crashes then
      poisoned[#poisoned + 1] = id
      redis.call('ZADD', DEAD, now, id)
      remember_failure(ERROR, id, now, ARGV[4])
    else
      reclaimed[#reclaimed + 1] = id
      add_to_rank(front, rank, id)
    end
  end
  push_ready(READY, front, 'LPUSH')
  redis.call('HINCRBY', STATS, 'reclaimed', #reclaimed)
  redis.call('HINCRBY', STATS, 'poisoned', #poisoned)
end
wake_fetchers(WAKE, WORKERS, promoted + #reclaimed)
local silent = redis.call('ZRANGEBYSCORE', WORKERS, '-inf', now - silent_ms, 'LIMIT', 0, 10)
return {promoted, reclaimed, poisoned, 0, silent, silent_ms}
