-- sweep: put right what RQ's own tools leave behind: places in the line held by jobs that do not
-- wait, and a backlog that counts them (`rq empty`, Job.cancel); jobs that wait again with the TTL
-- that a failed one has, and would be gone before their turn (`rq requeue`). Trims RQ's registries.
-- uses: common
-- ARGV  1... queues of one model
-- returns how many jobs entered the line

local entered, waiting, now = 0, 0, clock()
for _, queue in ipairs(ARGV) do
  for _, tenant in ipairs(redis.call('HKEYS', PW .. 'asides:' .. queue)) do
    for _, id in ipairs(redis.call('SMEMBERS', line_key(queue, tenant))) do
      if redis.call('HGET', job_key(id), 'status') ~= 'queued' then
        redis.call('SREM', line_key(queue, tenant), id)
        if let_next_in(queue, tenant) then entered = entered + 1 end
      end
    end
    local left = redis.call('ZCARD', aside_key(queue, tenant))
    waiting = waiting + left
    if left > 0 then
      redis.call('HSET', PW .. 'asides:' .. queue, tenant, left)
    else
      redis.call('HDEL', PW .. 'asides:' .. queue, tenant)
    end
  end
  for _, id in ipairs(redis.call('LRANGE', list_key(queue), 0, -1)) do  -- 1 ms a thousand jobs
    waiting = waiting + 1
    if redis.call('PERSIST', job_key(id)) == 1 then
      count_in(id, queue, redis.call('HGET', job_key(id), 'x_cost') or '0')
    end
  end
  for _, registry in ipairs({'finished:', 'failed:', 'canceled:'}) do
    redis.call('ZREMRANGEBYSCORE', RQ .. registry .. queue, '-inf', exact(now))
  end
end
if waiting == 0 and #ARGV > 0 then redis.call('DEL', PW .. 'backlog:' .. model_of(ARGV[1])) end
return entered
