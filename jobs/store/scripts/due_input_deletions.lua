-- due_input_deletions: list inputs that nothing holds any more. A listed member is due again after
--   hide_s unless confirm_input_deletions removes it.
-- uses: common, job_queue, input_holds
-- KEYS  1 zset of inputs, by due time: tenant/id/name
-- ARGV  1 maximum of members  2 hide_s
-- returns the members whose bytes are to be deleted

local now, out = clock(), {}
for _, member in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', exact(now), 'LIMIT', 0, ARGV[1])) do
  local of, blob = string.match(member, '^(.*)/([^/]+)$')
  local held = blob == redis.call('HGET', input_key(of), 'blob') and held_until(of) or 0
  if held > now then
    redis.call('ZADD', KEYS[1], exact(math.min(held, now + LOOK_S)), member)
  else
    if held > 0 or blob == redis.call('HGET', input_key(of), 'blob') then
      redis.call('DEL', input_key(of), holds_key(of))
    end
    redis.call('ZADD', KEYS[1], exact(now + tonumber(ARGV[2])), member)
    out[#out + 1] = member
  end
end
return out
