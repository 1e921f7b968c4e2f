-- locate: in which places each id is, at one instant; changes nothing
--
-- KEYS  job, lease, owner, scheduled, dead, workers, ready:critical, ready:high, ready:normal, ready:low, inbox...
-- ARGV  known (how many workers), every registered worker, then the ids
-- Output  nothing if a worker has joined since (read the registry again), or per id a string of letters: j has a record,
--         l leased, o has an owner, d dead, 0-3 scheduled with that rank, A-D ready at that rank (once per occurrence,
--         two at the most), i in an inbox
--
-- KEYS ends with four inbox keys per registered worker. Looks through whole lists: for the few suspects of an audit,
-- never for a hot path.
--#include registry
local known = tonumber(ARGV[1])
if not everybody_known(KEYS[6], {unpack(ARGV, 2, 1 + known)}) then return {} end

local replies = {}
for n = 2 + known, #ARGV do
  local id, places = ARGV[n], ''
  if redis.call('HEXISTS', KEYS[1], id) == 1 then places = places .. 'j' end
  if redis.call('ZSCORE', KEYS[2], id) then places = places .. 'l' end
  if redis.call('HEXISTS', KEYS[3], id) == 1 then places = places .. 'o' end
  if redis.call('ZSCORE', KEYS[5], id) then places = places .. 'd' end
  for rank = 0, 3 do
    if redis.call('ZSCORE', KEYS[4], rank .. ':' .. id) then places = places .. rank end
    local found = redis.call('LPOS', KEYS[7 + rank], id, 'COUNT', 2)
    places = places .. string.rep(string.char(65 + rank), #found)
  end
  for inbox = 11, #KEYS do
    places = places .. string.rep('i', #redis.call('LPOS', KEYS[inbox], id, 'COUNT', 2))
  end
  replies[#replies + 1] = places
end
return replies
