-- browse: a page of the dead, the longest dead first, from behind a cursor; changes nothing
--
-- KEYS  dead, job, tries, crashes, error
-- ARGV  count, bytes_max (a page is cut short when it is that large), then for a cursor: died at, id
-- Output  {more (0 or 1), then per job: id, died at, record, tries, crashes, error}
--
-- The job at the cursor may be gone, and a whole batch may have died in one millisecond: where the page begins is found
-- by bisection, O(log^2 n). Compares bytes as the sorted set does: Lua's own `<` goes by the server's locale.
local DEAD, JOB, TRIES, CRASHES, ERROR = unpack(KEYS, 1, 5)
local count, bytes_max = tonumber(ARGV[1]), tonumber(ARGV[2])

local function is_behind(member, id)
  for i = 1, math.min(#member, #id) do
    local a, b = string.byte(member, i), string.byte(id, i)
    if a ~= b then return a > b end
  end
  return #member > #id
end

local first = 0
if ARGV[3] then
  first = redis.call('ZCOUNT', DEAD, '-inf', '(' .. ARGV[3])
  local last = redis.call('ZCOUNT', DEAD, '-inf', ARGV[3])
  while first < last do
    local middle = math.floor((first + last) / 2)
    if is_behind(redis.call('ZRANGE', DEAD, middle, middle)[1], ARGV[4]) then
      last = middle
    else
      first = middle + 1
    end
  end
end

local page = redis.call('ZRANGE', DEAD, first, first + count, 'WITHSCORES')
local reply, bytes, at = {0}, 0, 1
while page[at] and at <= 2 * count do
  if bytes >= bytes_max then break end
  local id = page[at]
  local job = {id, page[at + 1]}
  for i, hash in ipairs({JOB, TRIES, CRASHES, ERROR}) do
    job[2 + i] = redis.call('HGET', hash, id)
    bytes = bytes + #(job[2 + i] or '')
  end
  for i = 1, 6 do reply[#reply + 1] = job[i] end
  at = at + 2
end
if page[at] then reply[1] = 1 end
return reply
