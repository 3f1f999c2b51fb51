-- erase_late: count overdue deletions: those that no janitor took in time, since none lives or none
--   keeps up, and those that object storage refused. No member counts twice: a refused member is due
--   again hide_s after it was listed, and overdue when as much has passed once more.
-- uses: common
-- KEYS  1 zset of deletions, by due time  2 zset of refused deletions, by last try  3 last reason
-- ARGV  1 hide_s
-- returns {count, reason of the last refusal or ''}

local now, hide_s = clock(), tonumber(ARGV[1])
local late = redis.call('ZCOUNT', KEYS[1], '-inf', '(' .. exact(now - hide_s))
local refused = redis.call('ZCOUNT', KEYS[2], exact(now - 2 * hide_s), '+inf')
return {late + refused, refused > 0 and redis.call('GET', KEYS[3]) or ''}
