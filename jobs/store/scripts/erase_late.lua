-- erase_late: how much is due to be erased, and is not: what nobody took in time, since no janitor
-- lives or none keeps up, and what the picture store refused. Nothing is counted twice: what is
-- refused is due again hide_s after it was handed out, and late when as much has passed once more.
-- uses: common
-- KEYS  1 zset of what is due, by when  2 zset of what was refused, by the last time  3 why
-- ARGV  1 hide_s
-- returns {how many, why the last was refused or ''}

local now, hide_s = clock(), tonumber(ARGV[1])
local late = redis.call('ZCOUNT', KEYS[1], '-inf', '(' .. exact(now - hide_s))
local refused = redis.call('ZCOUNT', KEYS[2], exact(now - 2 * hide_s), '+inf')
return {late + refused, refused > 0 and redis.call('GET', KEYS[3]) or ''}
