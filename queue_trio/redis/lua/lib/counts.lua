-- Every count of a lane at one instant.
local COUNTERS = {'enqueued', 'completed', 'cancelled', 'purged', 'adjusted'}

-- ready: the four ready lists; inboxes: four per worker, one for each rank. A job in an inbox still counts as ready.
local function count_lane(job, lease, scheduled, dead, stats, ready, inboxes)
  local counters = redis.call('HMGET', stats, unpack(COUNTERS))
  local counts = {
    records = redis.call('HLEN', job), leased = redis.call('ZCARD', lease),
    scheduled = redis.call('ZCARD', scheduled), dead = redis.call('ZCARD', dead), ready = {},
  }
  for i, name in ipairs(COUNTERS) do counts[name] = tonumber(counters[i] or 0) end
  counts.imbalance = counts.enqueued + counts.adjusted - counts.completed - counts.cancelled - counts.purged
    - counts.scheduled - counts.leased - counts.dead
  for i, list in ipairs(ready) do counts.ready[i] = redis.call('LLEN', list) end
  for i, list in ipairs(inboxes) do
    local rank = (i - 1) % #ready + 1
    counts.ready[rank] = counts.ready[rank] + redis.call('LLEN', list)
  end
  for _, count in ipairs(counts.ready) do counts.imbalance = counts.imbalance - count end
  return counts
end
