-- purge: dead -> purged
--
-- KEYS  session, job, dead, tries, crashes, error, stats
-- ARGV  seq, then per job: id, died at ('' for whenever)
-- Output  one letter per id: p purged, n it was not dead, or died at another time
--
-- Works with memory full.
--#include session memory dead
local SESSION, JOB, DEAD, TRIES, CRASHES, ERROR, STATS = unpack(KEYS, 1, 7)
local seq = tonumber(ARGV[1])
local again = recorded_reply(SESSION, seq)
if again then return again end

open_with_a_freeing_write(JOB)
local letters, gone = take_dead(DEAD, 2, 'p')
if #gone > 0 then
  for _, hash in ipairs({JOB, TRIES, CRASHES, ERROR}) do redis.call('HDEL', hash, unpack(gone)) end
  redis.call('HINCRBY', STATS, 'purged', #gone)
end
record_reply(SESSION, seq, letters)
return letters
