-- drain: leaves word for one worker that it shall drain and end; claim, adopt and renew tell it
--
-- KEYS  session, workers, control
-- ARGV  seq, worker
-- Output  1 if the worker is registered, else 0
--
-- Works with memory full. Forgotten by bury and register.
--#include session memory
local SESSION, WORKERS, CONTROL = unpack(KEYS, 1, 3)
local seq, worker = tonumber(ARGV[1]), ARGV[2]
local again = recorded_reply(SESSION, seq)
if again then return again end

open_with_a_freeing_write(CONTROL)
local reply = '0'
if redis.call('ZSCORE', WORKERS, worker) then
  redis.call('HSET', CONTROL, 'drain:' .. worker, '1')
  reply = '1'
end
record_reply(SESSION, seq, reply)
return reply
