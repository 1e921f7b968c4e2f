-- enqueue: (nowhere) -> ready | scheduled
--
-- KEYS  session, job, scheduled, wake, workers, stats, unique, ready:critical, ready:high, ready:normal, ready:low
-- ARGV  seq, max_length (0: no limit), then per job: id, terms (rank, or "rank delay_ms unique_ms"), record
-- Output  one letter per job: c created, d duplicate, r refused (queue full)
--
-- With memory full the first HSET or HSETNX is refused before anything has changed.
--#include clock session ready
local SESSION, JOB, SCHEDULED, WAKE, WORKERS, STATS, UNIQUE = unpack(KEYS, 1, 7)
local READY = {unpack(KEYS, 8, 11)}
local RANKS = {['0'] = 0, ['1'] = 1, ['2'] = 2, ['3'] = 3}

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

-- One job that only has to join its list is the commonest call, and needs three commands fewer than what follows.
if #ARGV == 5 and RANKS[ARGV[4]] and max_length == 0 and not remembers then
  local id, reply = ARGV[3], 'd'
  if redis.call('HSETNX', JOB, id, ARGV[5]) == 1 then
    reply = 'c'
    redis.call('HINCRBY', STATS, 'enqueued', 1)
    redis.call('RPUSH', READY[RANKS[ARGV[4]] + 1], id)
    wake_fetchers(WAKE, WORKERS, 1)
  end
  record_reply(SESSION, seq, reply)
  return reply
end

local ids = {}
for i = 3, #ARGV, 3 do ids[#ids + 1] = ARGV[i] end
-- One look and one write for all jobs: a call from Lua costs more than what it does.
local there = #ids > 0 and redis.call('HMGET', JOB, unpack(ids)) or {}

local now = now_ms()
local answers, created, mine = {}, 0, {}
local by_rank, records, later, taken = {}, {}, {}, {}
for i, id in ipairs(ids) do
  local terms = ARGV[3 * i + 1]
  local rank, delay, unique = RANKS[terms], 0, 0
  if not rank then
    rank, delay, unique = string.match(terms, '^(%d) (%d+) (%d+)$')
    rank, delay, unique = tonumber(rank), tonumber(delay), tonumber(unique)
  end
  local until_ms = remembers and redis.call('ZSCORE', UNIQUE, id)
  local answer
  if there[i] or mine[id] or (until_ms and tonumber(until_ms) > now) then
    answer = 'd'
  elseif created >= room then
    answer = 'r'
  else
    answer = 'c'
    created = created + 1
    mine[id] = true
    records[2 * created - 1], records[2 * created] = id, ARGV[3 * i + 2]
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
  answers[i] = answer
end

if created > 0 then
  redis.call('HSET', JOB, unpack(records))
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
