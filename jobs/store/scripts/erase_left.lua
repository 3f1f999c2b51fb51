-- erase_left: what the picture store would not erase. An entry counts for a while (erase_late.lua)
-- and is written again at each try, so that what somebody erased by hand is forgotten by itself.
-- uses: common
-- KEYS  1 zset of what was refused, by the last time  2 why the last was
-- ARGV  1 s that both live  2 why  then members, as in the zset of what is due

local now = clock()
for i = 3, #ARGV do redis.call('ZADD', KEYS[1], exact(now), ARGV[i]) end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', exact(now - tonumber(ARGV[1])))
redis.call('EXPIRE', KEYS[1], ARGV[1])
redis.call('SET', KEYS[2], ARGV[2], 'EX', ARGV[1])
return redis.call('ZCARD', KEYS[1])
