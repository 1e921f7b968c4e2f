-- A job's error history: lines "<server ms> <failure JSON>", the newest last, at most MAX_HISTORY of them.
local MAX_HISTORY = 10

local function remember_failure(errors, id, now, failure)
  local history = redis.call('HGET', errors, id)
  local line = string.format('%.0f ', now) .. failure
  if history then
    local _, newlines = string.gsub(history, '\n', '')
    for _ = MAX_HISTORY - 1, newlines do
      history = string.sub(history, string.find(history, '\n', 1, true) + 1)
    end
    line = history .. '\n' .. line
  end
  redis.call('HSET', errors, id, line)
end

-- The newest line, or false if there is no history.
local function last_failure(errors, id)
  local history = redis.call('HGET', errors, id)
  if not history then return false end
  local newline = string.find(string.reverse(history), '\n', 1, true)
  return newline and string.sub(history, -newline + 1) or history
end
