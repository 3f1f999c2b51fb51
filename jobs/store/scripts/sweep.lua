-- sweep: reconcile a model's lines with RQ's lists. Places of jobs that do not wait are given to the
--   next; waiting jobs that lost their place (the list was deleted) get it again; the TTL that a failed
--   job has is removed where it waits again (`rq requeue`), or it would expire before its turn; the
--   backlog is counted anew where it is wrong. Trims RQ's registries.
-- uses: common, job_queue, outbox, finish_common, requeue_common, settling
-- ARGV  1 maximum of jobs of a tenant in a line  2... queues of one model
-- returns the number of jobs that entered a line

local share, now, entered, waiting = tonumber(ARGV[1]), clock(), 0, 0

local function tenants_of(queue)  -- all that can have jobs there
  local seen, out = {}, redis.call('SMEMBERS', PW .. 'tenants')
  for _, tenant in ipairs(out) do seen[tenant] = true end
  for _, tenant in ipairs(redis.call('HKEYS', PW .. 'asides:' .. queue)) do
    if not seen[tenant] then out[#out + 1] = tenant end
  end
  return out
end

local function put_back(lost, queue, tenant)  -- to the head, the oldest first in line
  table.sort(lost, function(a, b) return a.since > b.since end)
  for _, l in ipairs(lost) do join_line(l.id, queue, tenant, false) end
  entered = entered + #lost
end

local function right_share(queue, tenant, standing)
  local lost = {}
  for _, id in ipairs(redis.call('SMEMBERS', line_key(queue, tenant))) do
    local in_list = standing[id]  -- its place is there; whether it still waits, settle looks
    if not in_list and status_of(id) == 'queued' then
      lost[#lost + 1] = {id = id, since = tonumber(redis.call('HGET', job_key(id), 'x_enq') or 0)}
    elseif not in_list then
      if redis.call('ZSCORE', open_key(tenant), id) then settle(id, tenant, now) end
      redis.call('SREM', line_key(queue, tenant), id)
    end
  end
  put_back(lost, queue, tenant)
  while redis.call('SCARD', line_key(queue, tenant)) < share and let_next_in(queue, tenant) do
    entered = entered + 1
  end
  local left = redis.call('ZCARD', aside_key(queue, tenant))
  if left > 0 then
    redis.call('HSET', PW .. 'asides:' .. queue, tenant, left)
  else
    redis.call('HDEL', PW .. 'asides:' .. queue, tenant)
  end
  waiting = waiting + left
end

local function adopt(id, queue)  -- an operator's `rq requeue`: open again, and counted
  local f = redis.call('HMGET', job_key(id), 'x_cost', 'x_tenant', 'x_enq')
  count_in(id, queue, f[1] or '0')
  if f[2] then
    redis.call('SADD', line_key(queue, f[2]), id)
    count_open(id, f[2], tonumber(f[3] or now))
  end
end

local function right_queue(queue)
  local standing, ids = {}, redis.call('LRANGE', list_key(queue), 0, -1)  -- 1 ms a thousand jobs
  for _, id in ipairs(ids) do
    standing[id] = true
    if status_of(id) == 'queued' and redis.call('PERSIST', job_key(id)) == 1 then adopt(id, queue) end
  end
  for _, tenant in ipairs(tenants_of(queue)) do right_share(queue, tenant, standing) end
  waiting = waiting + redis.call('LLEN', list_key(queue))
  for _, registry in ipairs({'finished:', 'failed:', 'canceled:'}) do
    redis.call('ZREMRANGEBYSCORE', RQ .. registry .. queue, '-inf', exact(now))
  end
end

local function recount(backlog)
  local jobs, cost = 0, 0
  local function add(ids)
    for _, id in ipairs(ids) do
      local counted = redis.call('HGET', job_key(id), 'x_waiting')
      if counted then jobs, cost = jobs + 1, cost + tonumber(counted) end
    end
  end
  for i = 2, #ARGV do
    add(redis.call('LRANGE', list_key(ARGV[i]), 0, -1))
    for _, tenant in ipairs(redis.call('HKEYS', PW .. 'asides:' .. ARGV[i])) do
      add(redis.call('ZRANGE', aside_key(ARGV[i], tenant), 0, -1))
    end
  end
  redis.call('HSET', backlog, 'jobs', jobs, 'cost', exact(cost))
  redis.call('EXPIRE', backlog, OPEN_TTL)
end

for i = 2, #ARGV do right_queue(ARGV[i]) end
local backlog = PW .. 'backlog:' .. model_of(ARGV[2])
if waiting == 0 then
  redis.call('DEL', backlog)
elseif tonumber(redis.call('HGET', backlog, 'jobs') or 0) ~= waiting then
  recount(backlog)
end
return entered
