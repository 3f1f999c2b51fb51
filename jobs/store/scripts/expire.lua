-- expire: end the jobs whose deadline is over, waiting or running.
-- uses: common, job_queue, outbox, finish_common
-- KEYS  1 jobs by deadline
-- ARGV  1 maximum of jobs
-- returns the IDs of the expired jobs

local now, out = clock(), {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', exact(now), 'LIMIT', 0, ARGV[1])) do
  redis.call('ZREM', KEYS[1], id)
  local status = redis.call('HGET', job_key(id), 'status')
  if status and not final(status) then
    stop(id, 'expired', now)
    out[#out + 1] = id
  end
end
return out
