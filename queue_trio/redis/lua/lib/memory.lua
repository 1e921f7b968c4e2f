-- Redis refuses a script's first write when memory is full and that write could need more. Once a script has
-- written, it is never refused. So a script that must work with memory full opens with a write that only frees.
local function open_with_a_freeing_write(hash)
  redis.call('HDEL', hash, '')
end
