-- confirm_input_deletions: remove input deletions that are done.
-- KEYS  1 zset of inputs, by due time  2 zset of refused deletions
-- ARGV  members
-- returns the number of removed members

redis.call('ZREM', KEYS[2], unpack(ARGV))
return redis.call('ZREM', KEYS[1], unpack(ARGV))
