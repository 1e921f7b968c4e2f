-- pull: ready -> inbox, what BLMOVE does, without waiting
--
-- KEYS  ready, inbox
-- ARGV  none
-- Output  1 if a job was moved, else 0
--
-- For when memory is full and Redis refuses BLMOVE: it frees before it allocates. Needs no session: a job moved by a call
-- whose reply was lost is in the inbox, and adopt takes everything that is there.
local id = redis.call('LPOP', KEYS[1])
if not id then return 0 end
redis.call('RPUSH', KEYS[2], id)
return 1
