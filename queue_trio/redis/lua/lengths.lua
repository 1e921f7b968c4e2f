-- lengths: the counts of a lane and the heads of its ready lists, whatever its length in O(1); changes nothing
--
-- KEYS  job, tries, error, scheduled, lease, dead, stats, workers, control, ready:critical, ready:high, ready:normal, ready:low
-- ARGV  record_bytes_max
-- Output  {now, paused (0 or 1), workers, scheduled, leased, dead, enqueued, completed, cancelled, purged,
--         {length per ready list}, {rank, id, record or nothing, last failure or nothing; for each that is not empty}}
--
-- Unlike stats, what is in an inbox is not counted: that would take the registry, and a key for each inbox.
--#include clock history
local JOB, TRIES, ERROR, SCHEDULED, LEASE, DEAD, STATS, WORKERS, CONTROL = unpack(KEYS, 1, 9)
local READY = {unpack(KEYS, 10, 13)}

local lengths, heads = {}, {}
for i, list in ipairs(READY) do
  lengths[i] = redis.call('LLEN', list)
  if lengths[i] > 0 then
    local id = redis.call('LINDEX', list, 0)
    local record, failure = false, false
    if redis.call('HSTRLEN', JOB, id) <= tonumber(ARGV[1]) then record = redis.call('HGET', JOB, id) end
    if redis.call('HEXISTS', TRIES, id) == 1 then failure = last_failure(ERROR, id) end
    for _, value in ipairs({i - 1, id, record, failure}) do heads[#heads + 1] = value end
  end
end
local counters = redis.call('HMGET', STATS, 'enqueued', 'completed', 'cancelled', 'purged')
for i = 1, 4 do counters[i] = tonumber(counters[i] or 0) end
return {
  now_ms(), redis.call('HGET', CONTROL, 'paused') == '1' and 1 or 0, redis.call('ZCARD', WORKERS),
  redis.call('ZCARD', SCHEDULED), redis.call('ZCARD', LEASE), redis.call('ZCARD', DEAD),
  counters[1], counters[2], counters[3], counters[4], lengths, heads,
}
