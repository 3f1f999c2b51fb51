-- progress: write the progress of a worker's running jobs. Ignored for jobs whose lease is gone,
--   except that a canceled job records the steps that were spent on it.
-- uses: common, job_queue, outbox
-- ARGV  of each job: queue, job:execution, stage, model calls done, model calls expected
-- returns the number of jobs still running

local running, now = 0, clock()
for i = 1, #ARGV, 5 do
  local queue, both, stage, step, steps = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], ARGV[i + 4]
  local id = string.match(both, '^(.*):')
  local status = redis.call('HGET', job_key(id), 'status')
  if status == 'started' and redis.call('ZSCORE', RQ .. 'wip:' .. queue, both) then
    running = running + 1
    redis.call('HSET', job_key(id), 'x_stage', stage, 'x_step', step, 'x_steps', steps)
    redis.call('PUBLISH', PW .. 'events:' .. id, cjson.encode({type = 'progress', job = id,
      stage = stage, step = tonumber(step), steps = tonumber(steps)}))
    announce_progress(id, now, stage, step, steps)
  elseif status == 'canceled' then
    redis.call('HSET', job_key(id), 'x_step', step, 'x_steps', steps)
  end
end
return running
