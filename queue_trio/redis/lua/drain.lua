-- drain: leaves word for one worker that it shall drain and end; claim, adopt and renew tell it
--
-- KEYS  session, workers, control
-- ARGV  seq, worker
-- Output  1 if the worker is registered, else 0
--
-- Works with memory full. Forgotten by bury, when the worker says that it goes, and by register; and for workers that
-- never came back, here, after a day.
--#include clock session memory
local SESSION, WORKERS, CONTROL = unpack(KEYS, 1, 3)
local seq, worker = tonumber(ARGV[1]), ARGV[2]
local again = recorded_reply(SESSION, seq)
if again then return again end

open_with_a_freeing_write(CONTROL)
local now, control = now_ms(), redis.call('HGETALL', CONTROL)
for i = 1, #control, 2 do
  local asked = string.match(control[i], '^drain:(.*)$')
  if asked and tonumber(control[i + 1]) < now - SESSION_TTL_MS and not redis.call('ZSCORE', WORKERS, asked) then
    redis.call('HDEL', CONTROL, control[i])
  end
end
local reply = '0'
if redis.call('ZSCORE', WORKERS, worker) then
  redis.call('HSET', CONTROL, 'drain:' .. worker, now)
  reply = '1'
end
record_reply(SESSION, seq, reply)
return reply
