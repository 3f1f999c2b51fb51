-- due_deletions: list jobs whose images are due for deletion from object storage. A listed member is
--   due again after hide_s unless confirm_deletions removes it.
-- uses: common, job_queue
-- KEYS  1 zset of deletions, by due time: tenant/job/images.extension
-- ARGV  1 maximum of members  2 hide_s
-- returns the members whose blobs are to be deleted

local now, out = clock(), {}
for _, member in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', exact(now), 'LIMIT', 0, ARGV[1])) do
  local tenant, id, images = string.match(member, '^(.*)/([^/]+)/(%d+)%.%w+$')
  local status = redis.call('HGET', job_key(id), 'status')
  if status and not final(status) then
    redis.call('ZADD', KEYS[1], exact(now + 60), member)  -- it runs again: requeued by hand
  elseif status == 'finished' then
    redis.call('ZADD', KEYS[1], exact(now + math.max(1, redis.call('TTL', job_key(id)))), member)
  elseif images ~= '0' then
    redis.call('ZADD', KEYS[1], exact(now + tonumber(ARGV[2])), member)
    out[#out + 1] = member
  else
    redis.call('ZREM', KEYS[1], member)
    if not status then redis.call('ZREM', PW .. 'tenant:' .. tenant .. ':jobs', id) end
  end
end
return out
