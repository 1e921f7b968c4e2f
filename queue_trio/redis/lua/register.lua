-- register: enters a worker in the lane's registry
--
-- KEYS  owner, worker_info, workers, control
-- ARGV  worker, info (JSON)
-- Output  1
--
-- Needs no session: sent twice it does the same twice. Works with memory full, or no worker could start to empty it.
--#include clock memory
open_with_a_freeing_write(KEYS[1])
redis.call('HDEL', KEYS[4], 'drain:' .. ARGV[1])
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
redis.call('ZADD', KEYS[3], now_ms(), ARGV[1])
return 1
