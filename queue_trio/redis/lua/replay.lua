-- replay: dead -> ready, at the end of its list; its tries and crashes are forgotten, its history is not
--
-- KEYS  session, dead, tries, crashes, stats, wake, workers, ready:critical, ready:high, ready:normal, ready:low
-- ARGV  seq, ranks (a digit per job: records are opaque here), then per job: id, died at ('' for whenever)
-- Output  one letter per id: r replayed, n it was not dead, or died at another time
--
-- Works with memory full.
--#include session memory ready dead
local SESSION, DEAD, TRIES, CRASHES, STATS, WAKE, WORKERS = unpack(KEYS, 1, 7)
local READY = {unpack(KEYS, 8, 11)}
local seq, ranks = tonumber(ARGV[1]), ARGV[2]
local again = recorded_reply(SESSION, seq)
if again then return again end

open_with_a_freeing_write(TRIES)
local letters, back, positions = take_dead(DEAD, 3, 'r')
if #back > 0 then
  redis.call('HDEL', TRIES, unpack(back))
  redis.call('HDEL', CRASHES, unpack(back))
  local by_rank = {}
  for i, id in ipairs(back) do
    local at = positions[i]
    add_to_rank(by_rank, tonumber(string.sub(ranks, at, at)), id)
  end
  wake_fetchers(WAKE, WORKERS, push_ready(READY, by_rank, 'RPUSH'))
  redis.call('HINCRBY', STATS, 'replayed', #back)
end
record_reply(SESSION, seq, letters)
return letters
