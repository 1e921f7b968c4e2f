-- A script that looks into inboxes gets their keys from its caller, who read the registry before. If a worker has joined
-- since, a job could be in an inbox that the script does not see: then it must say so, and the caller reads again.
local function everybody_known(workers, known)
  local names = {}
  for _, name in ipairs(known) do names[name] = true end
  for _, name in ipairs(redis.call('ZRANGE', workers, 0, -1)) do
    if not names[name] then return false end
  end
  return true
end
