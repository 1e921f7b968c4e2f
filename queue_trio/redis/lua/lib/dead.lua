-- Takes ids out of the dead, those that are there. What becomes of them is the caller's.

-- Returns `letter` or 'n' for each id, the ids taken, and their positions among all. Each counts once.
local function take_dead(dead, ids, letter)
  local letters, taken, positions, seen = {}, {}, {}, {}
  local scores = #ids > 0 and redis.call('ZMSCORE', dead, unpack(ids)) or {}
  for i, id in ipairs(ids) do
    if scores[i] and not seen[id] then
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
