-- claim: ready -> leased, in one step with the promotion of what is due
--
-- KEYS  session, job, scheduled, lease, owner, tries, crashes, stats, control, ready:critical, ready:high, ready:normal, ready:low
-- ARGV  seq, worker, want, lease_ms, promote_limit, order (ranks, such as "0123")
-- Output  {token, ids, records, tries, crashes, next_due_ms (-1: none), paused (0 or 1), drain (0 or 1)}; tries
--         and crashes hold nothing when no job has any
--#include clock session memory ready promote lease
local SESSION, JOB, SCHEDULED, LEASE, OWNER, TRIES, CRASHES, STATS, CONTROL = unpack(KEYS, 1, 9)
local READY = {unpack(KEYS, 10, 13)}
local seq, worker, want, lease_ms = tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local now = now_ms()

local told = redis.call('HMGET', CONTROL, 'paused', 'drain:' .. worker)
local paused, drain = told[1] == '1' and 1 or 0, told[2] and 1 or 0

local function answer(reply, next_due)
  reply[6], reply[7], reply[8] = next_due, paused, drain
  return reply
end

local again = recorded_reply(SESSION, seq)
if again then
  if again.err then return again end
  return answer(leased_again(again, LEASE, OWNER, now + lease_ms, JOB, TRIES, CRASHES), -1)
end

open_with_a_freeing_write(OWNER)
if paused == 1 then return answer(leased_nothing(SESSION, seq), -1) end

promote(SCHEDULED, READY, now, tonumber(ARGV[5]))
local ids, ranks = {}, {}
for rank in string.gmatch(ARGV[6], '%d') do
  if #ids >= want then break end
  local popped = redis.call('LPOP', READY[rank + 1], want - #ids)
  if popped then
    for _, id in ipairs(popped) do
      ids[#ids + 1] = id
      ranks[#ids] = rank
    end
  end
end

local next_due = -1
if #ids < want then
  local first = redis.call('ZRANGE', SCHEDULED, 0, 0, 'WITHSCORES')
  if first[2] then next_due = math.max(0, first[2] - now) end
end
if #ids == 0 then return answer(leased_nothing(SESSION, seq), next_due) end

local token = lease_out(STATS, LEASE, OWNER, worker, ids, ranks, now + lease_ms)
record_reply(SESSION, seq, token .. ' ' .. table.concat(ids, ' '))
return answer(leased_reply(token, ids, JOB, TRIES, CRASHES), next_due)
