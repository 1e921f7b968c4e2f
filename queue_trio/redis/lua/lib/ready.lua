-- Ready lists: READY[rank + 1], oldest job at the left. New jobs join at the right, returned ones at the front.
-- Groups ids by rank first, so that each list is written once.
local MAX_WAKE = 64

local function push_ready(ready, by_rank, command)
  local count = 0
  for rank = 0, #ready - 1 do
    local ids = by_rank[rank]
    if ids and #ids > 0 then
      redis.call(command, ready[rank + 1], unpack(ids))
      count = count + #ids
    end
  end
  return count
end

local function add_to_rank(by_rank, rank, id)
  local ids = by_rank[rank]
  if ids then ids[#ids + 1] = id else by_rank[rank] = {id} end
end

-- As many wake tokens as there are jobs or workers, whichever is fewer. A token too many costs one empty claim.
local function wake_fetchers(wake, workers, count)
  if count == 0 then return end
  local want = count
  if count > 1 then want = math.min(count, MAX_WAKE, math.max(1, redis.call('ZCARD', workers))) end
  local missing = want - redis.call('LLEN', wake)
  if missing > 0 then
    local tokens = {}
    for i = 1, missing do tokens[i] = '1' end
    redis.call('RPUSH', wake, unpack(tokens))
  end
end
