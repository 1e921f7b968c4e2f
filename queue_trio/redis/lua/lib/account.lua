-- The account of one rate limit: "<seen> <ahead> <line> <at> <amount> <unit>", as in core/limiter.py. Microseconds.
-- Numbers of this size must not meet Lua's own formatting, which keeps fourteen digits.
local LINE_US_MAX = 600000000

local function read_account(key)
  local numbers = {0, 0, 0, 0, 0, 0}
  local stored, i = redis.call('GET', key), 0
  if stored then
    for digits in string.gmatch(stored, '%d+') do
      i = i + 1
      numbers[i] = tonumber(digits)
    end
  end
  return unpack(numbers, 1, 6)
end

-- Expires when it says no more than no account would.
local function write_account(key, seen, ahead, line, at, amount, unit, until_us)
  -- DEL first: with memory full a script's first write must be one that only frees.
  redis.call('DEL', key)
  local ttl_ms = math.ceil((math.max(until_us, line) - seen) / 1000) + 1000
  local text = string.format('%.0f %.0f %.0f %.0f %.0f %.0f', seen, ahead, line, at, amount, unit)
  redis.call('SET', key, text, 'PX', string.format('%.0f', ttl_ms))
end

-- Server time that never goes back while the account lives: if the clock was set back, it goes on from where it was.
local function steady_us(seen, ahead)
  local t = redis.call('TIME')
  local clock = t[1] * 1000000 + t[2]
  local now = math.max(clock + ahead, seen)
  return now, now - clock
end

-- For who is sent away: when to ask again, one after the other, and the line after that. Advice; it holds no permit.
local function place_in_line(line, slot, now, stay, length)
  local place = math.max(line, slot)
  if place - now <= stay and place - slot <= LINE_US_MAX then return place, place + length end
  return place, place
end
