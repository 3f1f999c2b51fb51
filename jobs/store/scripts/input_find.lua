-- input_find: is this picture stored already? If so it is kept longer; if not, the bytes that are
-- about to be stored under a new name have a date at which they are erased, should nobody register them.
-- uses: common, job_queue, input_holds
-- KEYS  1 the input's hash  2 its holds  3 zset of inputs, by when to look at them
-- ARGV  1 tenant/id  2 new name  3 s that an upload holds it; 0: only look  4 s until an orphan goes
--       5 s that both keys live
-- returns {} or {name, changes, when the upload's hold ends}

local now = clock()
local known = redis.call('HMGET', KEYS[1], 'blob', 'changes')
if not known[1] or (ARGV[2] == '' and held_until(ARGV[1]) <= now) then
  if ARGV[2] ~= '' then
    redis.call('ZADD', KEYS[3], exact(now + tonumber(ARGV[4])), ARGV[1] .. '/' .. ARGV[2])
  end
  return {}
end
if tonumber(ARGV[3]) > 0 then
  redis.call('ZADD', KEYS[2], 'GT', exact(now + tonumber(ARGV[3])), 'upload')
  redis.call('EXPIRE', KEYS[1], ARGV[5])
  redis.call('EXPIRE', KEYS[2], ARGV[5])
end
return {known[1], known[2] or '', redis.call('ZSCORE', KEYS[2], 'upload') or '0'}
