-- erase_left: record deletions that object storage refused. An entry counts for a while
--   (erase_late.lua) and is written again at each try, so that an object that an operator deleted by
--   hand is forgotten without a step of its own.
-- uses: common
-- KEYS  1 zset of refused deletions, by last try  2 last reason
-- ARGV  1 TTL of both in s  2 reason  then members, as in the zset of deletions
-- returns the number of refused deletions

local now = clock()
for i = 3, #ARGV do redis.call('ZADD', KEYS[1], exact(now), ARGV[i]) end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', exact(now - tonumber(ARGV[1])))
redis.call('EXPIRE', KEYS[1], ARGV[1])
redis.call('SET', KEYS[2], ARGV[2], 'EX', ARGV[1])
return redis.call('ZCARD', KEYS[1])
