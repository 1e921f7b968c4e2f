-- find: where one id is, and all there is to know of it; changes nothing
--
-- KEYS  job, lease, scheduled, dead, owner, tries, crashes, error
-- ARGV  id
-- Output  nothing if there is no such job, or {place (leased, scheduled, dead, ready), score ('' if ready), rank if
--         scheduled else -1, record, owner, tries, crashes, error}
--
-- O(1): a record that is in no other place is ready, in a list or in an inbox.
local JOB, LEASE, SCHEDULED, DEAD, OWNER, TRIES, CRASHES, ERROR = unpack(KEYS, 1, 8)
local id = ARGV[1]

local record = redis.call('HGET', JOB, id)
local place, rank, score = 'leased', -1, redis.call('ZSCORE', LEASE, id)
for r = 0, 3 do
  if score then break end
  place, rank, score = 'scheduled', r, redis.call('ZSCORE', SCHEDULED, r .. ':' .. id)
end
if not score then place, rank, score = 'dead', -1, redis.call('ZSCORE', DEAD, id) end
if not score then place, score = 'ready', '' end
if place == 'ready' and not record then return {} end
return {
  place, score, rank, record, redis.call('HGET', OWNER, id), redis.call('HGET', TRIES, id),
  redis.call('HGET', CRASHES, id), redis.call('HGET', ERROR, id),
}
