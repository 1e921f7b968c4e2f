-- The crash budget of a job is charged with the token of each lease that expired, so the same loss is never charged
-- twice, and a worker that comes back alive can have its own charge removed and no other.
local function charge_crash(crashes, id, token)
  local charged = redis.call('HGET', crashes, id)
  charged = charged and (charged .. ' ' .. token) or token
  redis.call('HSET', crashes, id, charged)
  local _, spaces = string.gsub(charged, ' ', '')
  return spaces + 1
end

local function forgive_crash(crashes, id, token)
  local charged = redis.call('HGET', crashes, id)
  if not charged then return end
  local kept = {}
  for other in string.gmatch(charged, '%S+') do
    if other ~= token then kept[#kept + 1] = other end
  end
  if #kept == 0 then
    redis.call('HDEL', crashes, id)
  else
    redis.call('HSET', crashes, id, table.concat(kept, ' '))
  end
end
