-- cancel: scheduled | ready -> cancelled
--
-- KEYS  session, job, lease, owner, scheduled, dead, tries, crashes, error, stats, ready:critical, ready:high, ready:normal, ready:low
-- ARGV  seq, id
-- Output  cancelled, or the place it is left in: leased, dead, ready (in an inbox, on its way to a worker), none
--
-- Looks through the ready lists: not for hot paths. Works with memory full.
--#include session memory
local SESSION, JOB, LEASE, OWNER, SCHEDULED, DEAD, TRIES, CRASHES, ERROR, STATS = unpack(KEYS, 1, 10)
local READY = {unpack(KEYS, 11, 14)}
local seq, id = tonumber(ARGV[1]), ARGV[2]
local again = recorded_reply(SESSION, seq)
if again then return again end

local function take_out()
  for rank = 0, 3 do
    if redis.call('ZREM', SCHEDULED, rank .. ':' .. id) == 1 then return true end
  end
  for _, list in ipairs(READY) do
    if redis.call('LREM', list, 1, id) == 1 then return true end
  end
  return false
end

open_with_a_freeing_write(OWNER)
local reply = 'none'
if redis.call('ZSCORE', LEASE, id) then
  reply = 'leased'
elseif redis.call('ZSCORE', DEAD, id) then
  reply = 'dead'
elseif redis.call('HEXISTS', JOB, id) == 1 then
  reply = 'ready'
  if take_out() then
    for _, hash in ipairs({JOB, TRIES, CRASHES, ERROR}) do redis.call('HDEL', hash, id) end
    redis.call('HINCRBY', STATS, 'cancelled', 1)
    reply = 'cancelled'
  end
end
record_reply(SESSION, seq, reply)
return reply
