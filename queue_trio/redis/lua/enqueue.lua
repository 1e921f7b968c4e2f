-- enqueue: (nowhere) -> ready | scheduled
--
-- KEYS  session, job, scheduled, wake, workers, stats, unique, ready:critical, ready:high, ready:normal, ready:low
-- ARGV  seq, max_length (0: no limit), then per job: id, rank, delay_ms, unique_ms, record
-- Output  one letter per job: c created, d duplicate, r refused (queue full)
--
-- With memory full the first HSETNX is refused before anything has changed.
--#include clock session ready
local SESSION, JOB, SCHEDULED, WAKE, WORKERS, STATS, UNIQUE = unpack(KEYS, 1, 7)
local READY = {unpack(KEYS, 8, 11)}

local seq = tonumber(ARGV[1])
local again = recorded_reply(SESSION, seq)
if again then return again end

local max_length = tonumber(ARGV[2])
local room = math.huge
if max_length > 0 then
  room = max_length - redis.call('ZCARD', SCHEDULED)
  for _, list in ipairs(READY) do room = room - redis.call('LLEN', list) end
end
local remembers = redis.call('EXISTS', UNIQUE) == 1

local now
local answers, created = {}, 0
local by_rank, later, taken = {}, {}, {}
for i = 3, #ARGV, 5 do
  local id, rank = ARGV[i], tonumber(ARGV[i + 1])
  local delay, unique = tonumber(ARGV[i + 2]), tonumber(ARGV[i + 3])
  now = now or now_ms()
  local until_ms = remembers and redis.call('ZSCORE', UNIQUE, id)
  local answer
  if until_ms and tonumber(until_ms) > now then
    answer = 'd'
  elseif created >= room then
    answer = redis.call('HEXISTS', JOB, id) == 1 and 'd' or 'r'
  elseif redis.call('HSETNX', JOB, id, ARGV[i + 4]) == 0 then
    answer = 'd'
  else
    answer = 'c'
    created = created + 1
    if delay > 0 then
      later[#later + 1] = now + delay
      later[#later + 1] = rank .. ':' .. id
    else
      add_to_rank(by_rank, rank, id)
    end
    if unique > 0 then
      taken[#taken + 1] = now + unique
      taken[#taken + 1] = id
    end
  end
  answers[#answers + 1] = answer
end

if created > 0 then
  redis.call('HINCRBY', STATS, 'enqueued', created)
  if #later > 0 then redis.call('ZADD', SCHEDULED, unpack(later)) end
  if #taken > 0 then
    -- At least as many forgotten as remembered, so that what is remembered stays bounded without waiting for sweeps.
    local over = redis.call('ZRANGEBYSCORE', UNIQUE, '-inf', now, 'LIMIT', 0, #taken)
    if #over > 0 then redis.call('ZREM', UNIQUE, unpack(over)) end
    redis.call('ZADD', UNIQUE, unpack(taken))
  end
  -- A fetcher that sleeps until the next due job must learn of an earlier one, so delayed jobs wake it too.
  wake_fetchers(WAKE, WORKERS, push_ready(READY, by_rank, 'RPUSH') + #later / 2)
end
local reply = table.concat(answers)
record_reply(SESSION, seq, reply)
return reply
