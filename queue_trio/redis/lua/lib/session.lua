-- Calls happen once. A session holds its caller's last sequence number and the reply it got, as "<seq> <reply>".
-- The same number again is the same call sent twice: it gets the recorded reply and changes nothing. A smaller
-- number is a request that was delayed on the way and overtaken by later calls: it is refused, nobody reads it.
local SESSION_TTL_MS = 86400000

local function recorded_reply(session, seq)
  local last = redis.call('GET', session)
  if not last then return nil end
  local space = string.find(last, ' ', 1, true)
  local last_seq = tonumber(string.sub(last, 1, space - 1))
  if last_seq < seq then return nil end
  if last_seq == seq then return string.sub(last, space + 1) end
  return redis.error_reply('STALECALL call ' .. seq .. ' was overtaken by call ' .. last_seq)
end

local function record_reply(session, seq, reply)
  redis.call('SET', session, seq .. ' ' .. reply, 'PX', SESSION_TTL_MS)
end
