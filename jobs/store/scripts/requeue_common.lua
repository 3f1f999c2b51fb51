-- requeue_common: return a running job to the head of its queue, or fail it for good.
-- uses: common, job_queue, finish_common
-- Included. Invariant: only a job with an entry in the wip registry is returned, and a crash never
-- costs a retry: crashes are counted apart.

local function fail_crashed(id, queue, worker, now, verdict)
  tally('poison')
  redis.call('HSET', job_key(id), 'status', 'failed', 'x_error', verdict.error)
  local ttl = close(id, 'failed', now)
  redis.call('ZADD', RQ .. 'failed:' .. queue, exact(now + ttl), id)
  redis.call('XADD', RQ .. 'results:' .. id, 'MAXLEN', '~', 10, '*', 'type', 2,
    'worker_name', worker, 'exc_string', verdict.trace)
  redis.call('EXPIRE', RQ .. 'results:' .. id, ttl)
end

local function wait_again(id, queue, tenant, cost)  -- at the head of its line
  redis.call('HSET', job_key(id), 'status', 'queued', 'started_at', '', 'worker_name', '',
    'x_stage', 'waiting', 'x_step', 0)
  join_line(id, queue, tenant, false)
  count_in(id, queue, cost)
  tell(id, 'queued')
end

-- verdict: {why = lease, crash, retry or drain, crash = bool, retry = bool, solo_after, fail_after,
--   error, trace}
-- returns queued | failed | expired | lost | what the job had become meanwhile
local function send_back(id, eid, queue, now, verdict)
  if redis.call('ZREM', RQ .. 'wip:' .. queue, id .. ':' .. eid) == 0 then return 'lost' end
  local f = redis.call('HMGET', job_key(id), 'status', 'worker_name', 'x_tenant', 'x_deadline',
    'x_cost', 'retries_left')
  drop_execution(id, eid, queue, f[2] or '')
  if f[1] ~= 'started' then return f[1] or 'gone' end
  tally('returned|' .. verdict.why)
  if f[4] and tonumber(f[4]) <= now then
    stop(id, 'expired', now)
    return 'expired'
  end
  if verdict.crash then
    local crashes = redis.call('HINCRBY', job_key(id), 'x_crashes', 1)
    if crashes >= verdict.solo_after then redis.call('HSET', job_key(id), 'x_solo', '1') end
    if crashes >= verdict.fail_after then
      fail_crashed(id, queue, f[2] or '', now, verdict)
      return 'failed'
    end
  elseif verdict.retry then
    redis.call('HINCRBY', job_key(id), 'retries_left', -1)
  end
  wait_again(id, queue, f[3] or '', f[5] or '0')
  return 'queued'
end
