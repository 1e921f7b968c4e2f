-- members: one step of a scan over a hash's fields or a sorted set's members, without the values; changes nothing
--
-- KEYS  hash_or_zset
-- ARGV  command (HSCAN or ZSCAN), cursor, count
-- Output  {next cursor, names}
--
-- For the audit: a plain HSCAN would send every record along, a megabyte each at worst.
local step = redis.call(ARGV[1], KEYS[1], ARGV[2], 'COUNT', ARGV[3])
local names = {}
for i = 1, #step[2], 2 do names[#names + 1] = step[2][i] end
return {step[1], names}
