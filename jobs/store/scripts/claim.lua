-- claim: give a worker the next jobs to run: first come first served, with a bounded bypass.
--   A window of each line is read. A job whose size class the worker runs already may pass others,
--   until one of those has waited bypass_s: then that job goes first. Jobs that were passed are taken,
--   too, where there is room left: a preference never leaves a place empty.
--   Nothing is given while the queue is paused or to a worker that is to end: checked here and not by
--   the worker, whose last beat is up to 3 s old (36 of 36 jobs sent after a pause were run).
--   A job whose deadline is over is expired here and never starts. A solo job (suspected of killing
--   workers) is given to an idle worker only, and nothing with it.
-- uses: common, job_queue, outbox, finish_common
-- KEYS  1 worker's hash  2 worker's set of executions  3... lines, in the order to serve them
-- ARGV  1 images wanted  2 window  3 lease_s  4 worker's name  5 bypass_s  6 jobs running there
--       7 '' or age_s: first take one job that is older than this, from the last line upwards
--       8 number of size classes running there  9... these classes, then an execution ID a job
-- returns {Redis time, {{job id, execution id, queue, {field, value, ...}}, ...}}

local now = clock()
if redis.call('EXISTS', RQ .. 'suspended') == 1 or redis.call('HEXISTS', KEYS[1], 'x_drain') == 1 then
  return {exact(now), {}}
end
local want, window, lease = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local worker, bypass, running = ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6])
local classes, any_class = {}, ARGV[8] == '0'
for i = 9, 8 + tonumber(ARGV[8]) do classes[ARGV[i]] = true end
local ids_left, next_eid = #ARGV - 8 - tonumber(ARGV[8]), 9 + tonumber(ARGV[8])
local out, passed, enough = {}, {}, false

local function lease_out(id, eid, queue)  -- RQ: Execution.create and Job.prepare_for_execution
  local both, at = id .. ':' .. eid, exact(now)
  redis.call('HSET', RQ .. 'execution:' .. both, 'id', eid, 'job_id', id, 'created_at', at,
    'last_heartbeat', at, 'worker_name', worker)
  redis.call('EXPIRE', RQ .. 'execution:' .. both, lease + 60)
  redis.call('ZADD', RQ .. 'executions:' .. id, exact(now + lease + 60), eid)
  redis.call('EXPIRE', RQ .. 'executions:' .. id, lease + 60)
  redis.call('ZADD', RQ .. 'wip:' .. queue, exact(now + lease), both)
  redis.call('SADD', KEYS[2], both)
  redis.call('EXPIRE', KEYS[2], lease + 60)
end

local function take(id, queue, f)
  leave_line(id, queue, f.tenant)
  lease_out(id, ARGV[next_eid], queue)
  local key = job_key(id)
  redis.call('HSET', key, 'status', 'started', 'started_at', iso(now), 'last_heartbeat', iso(now),
    'worker_name', worker, 'x_started', exact(now), 'x_stage', 'waiting', 'x_step', 0)
  redis.call('HSETNX', key, 'x_queue_ms', math.floor((now - f.since) * 1000))
  redis.call('HINCRBY', key, 'x_attempts', 1)
  redis.call('HDEL', key, 'x_error', 'x_end', 'x_ended')  -- of a failure that was requeued
  redis.call('PERSIST', key)
  count_open(id, f.tenant, f.since)  -- again, where a failure was requeued
  tell(id, 'running')
  announce(id, 'started', now)
  out[#out + 1] = {id, ARGV[next_eid], queue, redis.call('HGETALL', key)}
  next_eid, ids_left, want = next_eid + 1, ids_left - 1, want - f.images
  classes[f.class], any_class = true, false
  enough = f.solo or want <= 0 or ids_left <= 0
end

local function look(id)
  local f = redis.call('HMGET', job_key(id), 'status', 'x_class', 'x_enq', 'x_solo', 'x_deadline',
    'x_n', 'x_tenant')
  return {waits = f[1] == 'queued', class = f[2] or '', since = tonumber(f[3] or now),
    solo = f[4] == '1', deadline = tonumber(f[5] or 'inf') or math.huge,
    images = tonumber(f[6] or 1), tenant = f[7] or ''}
end

local function serve(list, only_older_than)
  local queue = string.sub(list, #list_key('') + 1)
  for _, id in ipairs(redis.call('LRANGE', list, 0, window - 1)) do
    if enough then return end
    local f = look(id)
    local age = now - f.since
    if only_older_than and age < only_older_than then return end
    if not f.waits then
      leave_line(id, queue, f.tenant)  -- canceled, or gone: never run
    elseif f.deadline <= now then
      stop(id, 'expired', now)
    elseif f.solo and running + #out > 0 then
      if age > bypass then enough = true end  -- this worker empties itself, then takes it
    elseif any_class or classes[f.class] or age > bypass then
      take(id, queue, f)
      if only_older_than then return end
    elseif not only_older_than then
      passed[#passed + 1] = {id = id, queue = queue, f = f}
    end
  end
end

if ARGV[7] ~= '' then
  for i = #KEYS, 3, -1 do
    if not enough and #out == 0 then serve(KEYS[i], tonumber(ARGV[7])) end
  end
end
for i = 3, #KEYS do
  if not enough then serve(KEYS[i], nil) end
end
for _, p in ipairs(passed) do
  if not enough then take(p.id, p.queue, p.f) end
end
if #out > 0 and redis.call('EXISTS', KEYS[1]) == 1 then redis.call('HSET', KEYS[1], 'state', 'busy') end
return {exact(now), out}
