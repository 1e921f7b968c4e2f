-- stats: every count of a lane at one instant; changes nothing
--
-- KEYS  job, lease, scheduled, dead, stats, workers, control, ready:critical, ready:high, ready:normal, ready:low, inbox...
-- ARGV  every registered worker
-- Output  nothing if a worker has joined since (read the registry again), or {records, leased, scheduled, dead, workers, paused, enqueued, completed, cancelled, purged, adjusted,
--          ready:critical, ready:high, ready:normal, ready:low}
--
-- KEYS ends with four inbox keys per registered worker.
--#include counts registry
if not everybody_known(KEYS[6], ARGV) then return {} end
local c = count_lane(KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], {unpack(KEYS, 8, 11)}, {unpack(KEYS, 12)})
return {
  c.records, c.leased, c.scheduled, c.dead, redis.call('ZCARD', KEYS[6]),
  redis.call('HGET', KEYS[7], 'paused') == '1' and 1 or 0,
  c.enqueued, c.completed, c.cancelled, c.purged, c.adjusted, unpack(c.ready),
}
