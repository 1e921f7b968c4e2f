-- Takes jobs out of the dead, those that are there. What becomes of them is the caller's.

-- From ARGV[first] on: id, died at ('' for whenever). One that has died again since is not the job that was looked at:
-- it may have another history, and if its id was used again, another record.
-- Returns `letter` or 'n' for each id, the ids taken, and their positions among all. Each counts once.
local function take_dead(dead, first, letter)
  local ids, letters, taken, positions, seen = {}, {}, {}, {}, {}
  for i = first, #ARGV, 2 do ids[#ids + 1] = ARGV[i] end
  local scores = #ids > 0 and redis.call('ZMSCORE', dead, unpack(ids)) or {}
  for i, id in ipairs(ids) do
    local died_at = ARGV[first + 2 * i - 1]
    if scores[i] and not seen[id] and (died_at == '' or tonumber(died_at) == tonumber(scores[i])) then
      seen[id] = true
      letters[i] = letter
      taken[#taken + 1] = id
      positions[#positions + 1] = i
    else
      letters[i] = 'n'
    end
  end
  if #taken > 0 then redis.call('ZREM', dead, unpack(taken)) end
  return table.concat(letters), taken, positions
end
