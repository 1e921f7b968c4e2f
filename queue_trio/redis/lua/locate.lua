-- locate: in which places each id is, at one instant; changes nothing
--
-- KEYS  job, lease, owner, scheduled, dead, ready:critical, ready:high, ready:normal, ready:low, inbox...
-- ARGV  ids
-- Output  per id: a string of letters: j has a record, l leased, o has an owner, d dead, 0-3 scheduled with that
--         rank, A-D ready at that rank (once per occurrence, two at the most), i in an inbox
--
-- Looks through whole lists: for the few suspects of an audit, never for a hot path.
local replies = {}
for n, id in ipairs(ARGV) do
  local places = ''
  if redis.call('HEXISTS', KEYS[1], id) == 1 then places = places .. 'j' end
  if redis.call('ZSCORE', KEYS[2], id) then places = places .. 'l' end
  if redis.call('HEXISTS', KEYS[3], id) == 1 then places = places .. 'o' end
  if redis.call('ZSCORE', KEYS[5], id) then places = places .. 'd' end
  for rank = 0, 3 do
    if redis.call('ZSCORE', KEYS[4], rank .. ':' .. id) then places = places .. rank end
    local found = redis.call('LPOS', KEYS[6 + rank], id, 'COUNT', 2)
    places = places .. string.rep(string.char(65 + rank), #found)
  end
  for inbox = 10, #KEYS do
    places = places .. string.rep('i', #redis.call('LPOS', KEYS[inbox], id, 'COUNT', 2))
  end
  replies[n] = places
end
return replies
