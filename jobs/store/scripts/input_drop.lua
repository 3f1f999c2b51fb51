-- input_drop: forget an input at once, whatever holds it; its bytes are due for deletion now.
-- uses: common
-- KEYS  1 the input's hash  2 its holds  3 zset of inputs, by due time
-- ARGV  1 tenant/id
-- returns the name of its bytes, or nil: there is no such input

local blob = redis.call('HGET', KEYS[1], 'blob')
if not blob then return false end
redis.call('DEL', KEYS[1], KEYS[2])
redis.call('ZADD', KEYS[3], exact(clock()), ARGV[1] .. '/' .. blob)
return blob
