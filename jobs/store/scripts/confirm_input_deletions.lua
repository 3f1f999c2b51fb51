-- input_erased: these bytes are gone.
-- KEYS  1 zset of inputs, by when to look at them  2 zset of what the store refused
-- ARGV  members
-- returns how many

redis.call('ZREM', KEYS[2], unpack(ARGV))
return redis.call('ZREM', KEYS[1], unpack(ARGV))
