-- pause: from now on claims of the lane return nothing, or jobs again
--
-- KEYS  session, control
-- ARGV  seq, paused (0 or 1)
-- Output  1
--
-- Works with memory full. Has a session, so that a late copy cannot undo what was decided since.
--#include session memory
local SESSION, CONTROL = unpack(KEYS, 1, 2)
local seq = tonumber(ARGV[1])
local again = recorded_reply(SESSION, seq)
if again then return again end

open_with_a_freeing_write(CONTROL)
redis.call('HSET', CONTROL, 'paused', ARGV[2])
record_reply(SESSION, seq, '1')
return '1'
