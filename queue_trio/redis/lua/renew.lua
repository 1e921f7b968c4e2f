-- renew: leased -> leased, with a later deadline; and the worker's heartbeat
--
-- KEYS  lease, owner, crashes, workers, leases, control
-- ARGV  worker, lease_ms, then per job: id, token
-- Output  {drain (0 or 1), then the positions (from 1) of the jobs whose lease is no longer ours}
--
-- Needs no session: sent twice it does the same twice. Works with memory full, or a full server would cost leases.
--#include clock memory crashes
local LEASE, OWNER, CRASHES, WORKERS, LEASES, CONTROL = unpack(KEYS, 1, 6)
local now = now_ms()
local deadline = now + tonumber(ARGV[2])

local ids, tokens = {}, {}
for i = 3, #ARGV, 2 do
  ids[#ids + 1], tokens[#tokens + 1] = ARGV[i], ARGV[i + 1]
end
open_with_a_freeing_write(OWNER)
redis.call('ZADD', WORKERS, now, ARGV[1])
redis.call('ZADD', LEASES, ARGV[2], ARGV[1])
local answer = {redis.call('HGET', CONTROL, 'drain:' .. ARGV[1]) and 1 or 0}
if #ids == 0 then return answer end

local owners, scores = redis.call('HMGET', OWNER, unpack(ids)), {}
for i, id in ipairs(ids) do
  if owners[i] and string.sub(owners[i], 3) == tokens[i] then
    scores[#scores + 1] = deadline
    scores[#scores + 1] = id
  else
    answer[#answer + 1] = i
    forgive_crash(CRASHES, id, tokens[i])
  end
end
if #scores > 0 then redis.call('ZADD', LEASE, 'XX', unpack(scores)) end
return answer
