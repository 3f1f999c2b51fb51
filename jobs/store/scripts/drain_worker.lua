-- drain_worker: stop giving jobs to a worker, and order it to end by RQ's `shutdown` command. The flag
--   in the worker's hash is the backstop, read by its next beat; a successor of the same name begins
--   with a new hash.
-- uses: common
-- KEYS  1 worker's RQ hash
-- ARGV  1 worker's name  2 the command as JSON
-- returns 1, or 0: no worker of this name listens

if redis.call('PUBLISH', RQ .. 'pubsub:' .. ARGV[1], ARGV[2]) == 0 then return 0 end
redis.call('HSET', KEYS[1], 'x_drain', '1')
if redis.call('TTL', KEYS[1]) == -1 then redis.call('EXPIRE', KEYS[1], @WORKER_TTL_S@) end
return 1
