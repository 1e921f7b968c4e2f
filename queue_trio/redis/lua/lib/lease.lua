-- Leases: what `claim` and `adopt` share, and the reply both give.
-- owner holds "<rank> <token>", so that whatever ends the lease knows which list the job came from.

-- Writes the leases of ids (ranks alongside) under one new token and returns that token.
local function lease_out(stats, lease, owner, worker, ids, ranks, deadline)
  local token = worker .. ':' .. redis.call('HINCRBY', stats, 'claims', 1)
  local scores, owners = {}, {}
  for i, id in ipairs(ids) do
    scores[2 * i - 1], scores[2 * i] = deadline, id
    owners[2 * i - 1], owners[2 * i] = id, ranks[i] .. ' ' .. token
  end
  redis.call('ZADD', lease, unpack(scores))
  redis.call('HSET', owner, unpack(owners))
  return token
end

local function leased_reply(token, ids, job, tries, crashes)
  local records = redis.call('HMGET', job, unpack(ids))
  local failed, crashed = {}, {}
  if redis.call('EXISTS', tries, crashes) > 0 then
    failed = redis.call('HMGET', tries, unpack(ids))
    crashed = redis.call('HMGET', crashes, unpack(ids))
  end
  return {token, ids, records, failed, crashed}
end

-- Recorded too, although nothing has changed: a copy of this call that is still on its way must find that the call has
-- been answered, or it would lease jobs to a worker that never learns of them.
local function leased_nothing(session, seq)
  record_reply(session, seq, '')
  return {'', {}, {}, {}, {}}
end

-- The recorded reply of a claim is "<token> <id> <id> ...". Sent again, it is the same jobs, less those that were
-- taken back meanwhile, and the leases begin anew: the worker only learns of them now.
local function leased_again(recorded, lease, owner, deadline, job, tries, crashes)
  local words = {}
  for word in string.gmatch(recorded, '%S+') do words[#words + 1] = word end
  local token = table.remove(words, 1) or ''
  if #words == 0 then return {token, {}, {}, {}, {}} end
  local owners, ids, scores = redis.call('HMGET', owner, unpack(words)), {}, {}
  for i, id in ipairs(words) do
    if owners[i] and string.sub(owners[i], 3) == token then
      ids[#ids + 1] = id
      scores[#scores + 1] = deadline
      scores[#scores + 1] = id
    end
  end
  if #ids == 0 then return {token, {}, {}, {}, {}} end
  redis.call('HDEL', owner, '')
  redis.call('ZADD', lease, 'XX', unpack(scores))
  return leased_reply(token, ids, job, tries, crashes)
end
