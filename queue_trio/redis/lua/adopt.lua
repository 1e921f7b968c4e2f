-- adopt: inbox -> leased, the second half of the classic blocking move (strategy `looped`)
--
-- KEYS  session, job, lease, owner, tries, crashes, stats, control, inbox:0, inbox:1, inbox:2, inbox:3
-- ARGV  seq, worker, want, lease_ms
-- Output  as claim; next_due_ms is always -1
--#include clock session memory lease
local SESSION, JOB, LEASE, OWNER, TRIES, CRASHES, STATS, CONTROL = unpack(KEYS, 1, 8)
local seq, worker, want, lease_ms = tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local now = now_ms()
local told = redis.call('HMGET', CONTROL, 'paused', 'drain:' .. worker)
local paused, drain = told[1] == '1' and 1 or 0, told[2] and 1 or 0

local function answer(reply)
  reply[6], reply[7], reply[8] = -1, paused, drain
  return reply
end

local again = recorded_reply(SESSION, seq)
if again then
  if again.err then return again end
  return answer(leased_again(again, LEASE, OWNER, now + lease_ms, JOB, TRIES, CRASHES))
end

open_with_a_freeing_write(OWNER)
local ids, ranks = {}, {}
for rank = 0, 3 do
  if #ids >= want then break end
  local popped = redis.call('LPOP', KEYS[9 + rank], want - #ids)
  if popped then
    for _, id in ipairs(popped) do
      ids[#ids + 1] = id
      ranks[#ids] = rank
    end
  end
end
if #ids == 0 then return answer(leased_nothing(SESSION, seq)) end

local token = lease_out(STATS, LEASE, OWNER, worker, ids, ranks, now + lease_ms)
record_reply(SESSION, seq, token .. ' ' .. table.concat(ids, ' '))
return answer(leased_reply(token, ids, JOB, TRIES, CRASHES))
