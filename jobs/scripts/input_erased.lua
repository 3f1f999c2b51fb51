-- input_erased: these bytes are gone.
-- KEYS  1 zset of inputs, by when to look at them
-- ARGV  members
-- returns how many

return redis.call('ZREM', KEYS[1], unpack(ARGV))
