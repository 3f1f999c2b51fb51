-- confirm_deletions: remove deletions that are done. The entry of a record that still lives is put
--   back once more, due when the record expires, to take the job out of its tenant's listing.
-- uses: common, job_queue
-- KEYS  1 zset of deletions, by due time  2 zset of refused deletions
-- ARGV  members
-- returns the number of members

local now = clock()
for _, member in ipairs(ARGV) do
  local tenant, id, extension = string.match(member, '^(.*)/([^/]+)/%d+%.(%w+)$')
  local left = redis.call('TTL', job_key(id))
  redis.call('ZREM', KEYS[1], member)
  redis.call('ZREM', KEYS[2], member)
  if left > 0 then
    redis.call('ZADD', KEYS[1], exact(now + left), tenant .. '/' .. id .. '/0.' .. extension)
  elseif left == -2 then
    redis.call('ZREM', PW .. 'tenant:' .. tenant .. ':jobs', id)
  end
end
return #ARGV
