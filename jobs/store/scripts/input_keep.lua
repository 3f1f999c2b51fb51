-- input_keep: the bytes are stored: from now on this is an input. Where another request was
-- quicker with the same picture, its bytes stay and ours go.
-- uses: common
-- KEYS  1 the input's hash  2 its holds  3 zset of inputs, by when to look at them
-- ARGV  1 tenant/id  2 name of the bytes  3 s that an upload holds it  4 what decoding changed
--       5 s that both keys live
-- returns {name, changes, when the upload's hold ends}

local now = clock()
if redis.call('HEXISTS', KEYS[1], 'blob') == 0 then
  redis.call('HSET', KEYS[1], 'blob', ARGV[2], 'changes', ARGV[4])
elseif redis.call('HGET', KEYS[1], 'blob') ~= ARGV[2] then
  redis.call('ZADD', KEYS[3], exact(now), ARGV[1] .. '/' .. ARGV[2])
end
local f = redis.call('HMGET', KEYS[1], 'blob', 'changes')
redis.call('ZADD', KEYS[2], 'GT', exact(now + tonumber(ARGV[3])), 'upload')
redis.call('ZADD', KEYS[3], exact(now + tonumber(ARGV[3])), ARGV[1] .. '/' .. f[1])
redis.call('EXPIRE', KEYS[1], ARGV[5])
redis.call('EXPIRE', KEYS[2], ARGV[5])
return {f[1], f[2], redis.call('ZSCORE', KEYS[2], 'upload')}
