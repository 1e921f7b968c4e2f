-- settle: leased -> completed | scheduled (retry, release later) | ready (release) | dead
--
-- KEYS  session, job, lease, owner, tries, crashes, error, scheduled, dead, wake, workers, stats, ready:critical, ready:high, ready:normal, ready:low, result...
-- ARGV  seq, plain (how many jobs are simply done), per such job: id, token;
--       then per other job: id, token, verdict (done, retry, dead, release), delay_ms, detail, keep_ms
-- Output  one letter per job: a accepted, s stale (the lease is another's or nobody's; nothing changed)
--
-- KEYS has one result key for each `done` among the others, in order; detail is what it stores for keep_ms.
-- Works with memory full: it frees before it allocates.
--#include clock session memory ready history crashes
local SESSION, JOB, LEASE, OWNER, TRIES, CRASHES, ERROR, SCHEDULED, DEAD, WAKE, WORKERS, STATS = unpack(KEYS, 1, 12)
local READY = {unpack(KEYS, 13, 16)}

local seq = tonumber(ARGV[1])
local again = recorded_reply(SESSION, seq)
if again then return again end

local plain = tonumber(ARGV[2])
local others = 3 + 2 * plain
local ids, tokens = {}, {}
for i = 3, others - 1, 2 do
  ids[#ids + 1], tokens[#tokens + 1] = ARGV[i], ARGV[i + 1]
end
for i = others, #ARGV, 6 do
  ids[#ids + 1], tokens[#tokens + 1] = ARGV[i], ARGV[i + 1]
  local keep = tonumber(ARGV[i + 5])
  -- Checked before the first write: SET would refuse it half way, with leases already gone.
  if ARGV[i + 2] == 'done' and not (keep >= 1 and keep < 4503599627370496) then
    return redis.error_reply('ERR keep_ms of ' .. ids[#ids] .. ' is ' .. ARGV[i + 5])
  end
end

-- The fence: only the holder of the current lease passes, and once.
local owners = redis.call('HMGET', OWNER, unpack(ids))
local letters, accepted, stale, passed = {}, {}, {}, {}
for i, id in ipairs(ids) do
  if owners[i] and not passed[id] and string.sub(owners[i], 3) == tokens[i] then
    letters[i] = 'a'
    passed[id] = true
    accepted[#accepted + 1] = id
  else
    letters[i] = 's'
    stale[#stale + 1] = i
  end
end

open_with_a_freeing_write(OWNER)
if #accepted > 0 then
  redis.call('ZREM', LEASE, unpack(accepted))
  redis.call('HDEL', OWNER, unpack(accepted))
end

local gone = {}
for i = 1, plain do
  if letters[i] == 'a' then gone[#gone + 1] = ids[i] end
end

local now = now_ms()
local counts = {retry = 0, dead = 0, release = 0}
local front, result_key, woken = {}, 17, 0
for i = plain + 1, #ids do
  local at = others + 6 * (i - plain - 1)
  local verdict, delay, detail = ARGV[at + 2], tonumber(ARGV[at + 3]), ARGV[at + 4]
  local key = nil
  if verdict == 'done' then
    key = KEYS[result_key]
    result_key = result_key + 1
  end
  if letters[i] == 'a' then
    local id, rank = ids[i], tonumber(string.sub(owners[i], 1, 1))
    if verdict == 'done' then
      gone[#gone + 1] = id
      redis.call('SET', key, detail, 'PX', ARGV[at + 5])
    elseif verdict == 'dead' then
      redis.call('ZADD', DEAD, now, id)
      remember_failure(ERROR, id, now, detail)
    elseif verdict == 'retry' then
      redis.call('HINCRBY', TRIES, id, 1)
      remember_failure(ERROR, id, now, detail)
      redis.call('ZADD', SCHEDULED, now + delay, rank .. ':' .. id)
      woken = woken + 1
    elseif delay > 0 then
      redis.call('ZADD', SCHEDULED, now + delay, rank .. ':' .. id)
      woken = woken + 1
    else
      add_to_rank(front, rank, id)
    end
    if verdict ~= 'done' then counts[verdict] = counts[verdict] + 1 end
  end
end

if #gone > 0 then
  redis.call('HDEL', JOB, unpack(gone))
  if redis.call('EXISTS', TRIES, CRASHES, ERROR) > 0 then
    redis.call('HDEL', TRIES, unpack(gone))
    redis.call('HDEL', CRASHES, unpack(gone))
    redis.call('HDEL', ERROR, unpack(gone))
  end
  redis.call('HINCRBY', STATS, 'completed', #gone)
end
-- A worker that is alive to say so did not crash with the job whose lease it lost.
if #stale > 0 and redis.call('EXISTS', CRASHES) == 1 then
  for _, i in ipairs(stale) do forgive_crash(CRASHES, ids[i], tokens[i]) end
end
-- To the front, the first of the batch foremost: LPUSH reverses, so reverse first.
for _, list in pairs(front) do
  for i = 1, math.floor(#list / 2) do list[i], list[#list + 1 - i] = list[#list + 1 - i], list[i] end
end
wake_fetchers(WAKE, WORKERS, push_ready(READY, front, 'LPUSH') + woken)
for verdict, count in pairs(counts) do
  if count > 0 then redis.call('HINCRBY', STATS, verdict, count) end
end
if #stale > 0 then redis.call('HINCRBY', STATS, 'stale', #stale) end

local reply = table.concat(letters)
record_reply(SESSION, seq, reply)
return reply
