-- limit_window: permits in windows of fixed length, aligned to the server's clock
--
-- KEYS  limit
-- ARGV  limit, per_us, count, reserve_us, stay_us, gap_us
-- Output  granted (1 or 0), wait_us to the slot, now_us, line_us until asking again is fair
--
-- The model is core/limiter.py. Needs no session: sent twice it may take permits that nobody uses, never one too many.
-- Works with memory full.
--#include account
local LIMIT = KEYS[1]
local limit, per, count = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local reserve, stay, gap = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])

local seen, ahead, line, at, amount, unit = read_account(LIMIT)
local now
now, ahead = steady_us(seen, ahead)

local start, used = at, amount
local current = now - math.fmod(now, per)
if start < current then start, used = current, 0 end
if used + count > limit then start, used = start - math.fmod(start, per) + per, 0 end
local slot = math.max(now, start)

if slot - now <= reserve then
  write_account(LIMIT, now, ahead, line, start, used + count, 0, start + per)
  return {1, slot - now, now, slot - now}
end
local place
place, line = place_in_line(line, slot, now, stay, count * gap)
write_account(LIMIT, now, ahead, line, at, amount, unit, at + per)
place = math.max(slot, place - math.fmod(place, per))
return {0, slot - now, now, place - now}
