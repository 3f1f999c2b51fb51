-- finish: write the end of a job, if the caller holds its lease. RQ writes the same fields in its
--   handle_job_success and handle_job_failure (tests/contract compares them).
-- uses: common, job_queue, outbox, finish_common
-- KEYS  1 job hash  2 worker's hash  3 RQ's results of the job  4 registry it ends in
-- ARGV  1 job id  2 execution id  3 queue  4 worker's name
--       5 word for followers: succeeded, failed, canceled  6 RQ status: finished, failed, stopped
--       7 counter of the worker's hash  8 number of result fields and values, then these
--       then fields and values for the job hash
-- returns {ok}, {again} (this same end is written already) or {lost, RQ status or ''}

local now, id, eid, queue = clock(), ARGV[1], ARGV[2], ARGV[3]
local n_result = tonumber(ARGV[8])
local was = redis.call('HMGET', KEYS[1], 'status', 'x_started', 'x_ended_by')
local leased = redis.call('ZSCORE', RQ .. 'wip:' .. queue, id .. ':' .. eid)

if not leased or was[1] ~= 'started' then
  if was[3] == eid and was[1] == ARGV[6] then return {'again'} end
  tally('fenced_writes')
  return {'lost', was[1] or ''}
end

local started = tonumber(was[2] or now)
if redis.call('EXISTS', KEYS[2]) == 1 then  -- a forgotten worker's hash would stay for ever
  redis.call('HINCRBY', KEYS[2], ARGV[7], 1)
  redis.call('HINCRBYFLOAT', KEYS[2], 'total_working_time', exact(now - started))
end
redis.call('HSET', KEYS[1], 'status', ARGV[6], 'last_heartbeat', iso(now), 'x_ended_by', eid,
  unpack(ARGV, 9 + n_result))
local ttl = close(id, ARGV[5], now)
redis.call('XADD', KEYS[3], 'MAXLEN', '~', 10, '*', 'execution_started_at', exact(started),
  'execution_ended_at', exact(now), unpack(ARGV, 9, 8 + n_result))
redis.call('EXPIRE', KEYS[3], ttl)
redis.call('ZADD', KEYS[4], exact(now + ttl), id)
drop_execution(id, eid, queue, ARGV[4])
return {'ok'}
