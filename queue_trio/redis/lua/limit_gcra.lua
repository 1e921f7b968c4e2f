-- limit_gcra: permits at even distances (GCRA), up to a burst at once after a pause
--
-- KEYS  limit
-- ARGV  apart, unit (a permit every apart/unit microseconds), burst, count, reserve_us, stay_us, gap_us
-- Output  granted (1 or 0), wait_us to the slot, now_us, line_us until asking again is fair
--
-- The model is core/limiter.py. Needs no session: sent twice it may take permits that nobody uses, never one too many.
-- Works with memory full.
--#include account
local LIMIT = KEYS[1]
local apart, per_unit, burst, count = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local reserve, stay, gap = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])

local seen, ahead, line, at, amount, unit = read_account(LIMIT)
local now
now, ahead = steady_us(seen, ahead)

local whole, rest = at, amount
if unit ~= per_unit and rest > 0 then whole, rest = whole + 1, 0 end
if whole < now then whole, rest = now, 0 end
-- In units of 1/per_unit microseconds; fmod is exact where a division and floor are not.
local early = rest + (count - burst) * apart
local over = math.fmod(early, per_unit)
local slot = whole + (early - over) / per_unit
if over > 0 then slot = slot + 1 end
slot = math.max(now, slot)

if slot - now <= reserve then
  local later = rest + count * apart
  rest = math.fmod(later, per_unit)
  whole = whole + (later - rest) / per_unit
  write_account(LIMIT, now, ahead, line, whole, rest, per_unit, whole + 1)
  return {1, slot - now, now, slot - now}
end
local place
place, line = place_in_line(line, slot, now, stay, count * gap)
write_account(LIMIT, now, ahead, line, at, amount, unit, at + 1)
return {0, slot - now, now, place - now}
