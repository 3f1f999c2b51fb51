-- input_keep: register stored bytes as an input. Where another request registered the same image
--   before, the bytes of that request stay and these are due for deletion.
-- uses: common
-- KEYS  1 the input's hash  2 its holds  3 zset of inputs, by due time
-- ARGV  1 tenant/id  2 name of the bytes  3 s that an upload holds the input  4 changes by decoding
--       5 TTL of both keys in s
-- returns {name, changes, end of the upload's hold}

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
