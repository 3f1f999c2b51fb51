-- input_find: look up an input image, and extend its hold. Where there is none, the bytes about to be
--   stored under a new name get a date of deletion, in case no request registers them.
-- uses: common, job_queue, input_holds
-- KEYS  1 the input's hash  2 its holds  3 zset of inputs, by due time
-- ARGV  1 tenant/id  2 new name, or ''  3 s that an upload holds the input; 0: only look
--       4 s until unregistered bytes are deleted  5 TTL of both keys in s
-- returns {} or {name, changes, end of the upload's hold}

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
