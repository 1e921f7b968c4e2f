-- Moves up to `limit` due jobs from scheduled to the end of their ready lists. Frees before it allocates.
local function promote(scheduled, ready, now, limit)
  local due = redis.call('ZRANGEBYSCORE', scheduled, '-inf', now, 'LIMIT', 0, limit)
  if #due == 0 then return 0 end
  redis.call('ZREM', scheduled, unpack(due))
  local by_rank = {}
  for _, member in ipairs(due) do
    add_to_rank(by_rank, tonumber(string.sub(member, 1, 1)), string.sub(member, 3))
  end
  return push_ready(ready, by_rank, 'RPUSH')
end
