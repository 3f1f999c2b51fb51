-- purge: cancel some of the waiting jobs of a model. Running jobs go on.
-- uses: common, job_queue, outbox, finish_common
-- KEYS  1... lines of one model
-- ARGV  1 maximum of jobs  2 tenant, or '' for all tenants
-- returns {number of canceled jobs, number of jobs that still wait}

local now, most, tenant = clock(), tonumber(ARGV[1]), ARGV[2]
local canceled, left = 0, 0

local function cancel(ids, queue)
  for _, id in ipairs(ids) do
    if canceled >= most then return end
    local f = redis.call('HMGET', job_key(id), 'status', 'x_tenant')
    if f[1] == 'queued' then
      stop(id, 'canceled', now)
      canceled = canceled + 1
    else
      leave_line(id, queue, f[2] or '')  -- RQ's own tools ended it and left its place
    end
  end
end

-- those aside first, and from the head: each is found at once, and none has to enter the line
local function purge_tenant(queue, who)
  local aside = aside_key(queue, who)
  if canceled < most then cancel(redis.call('ZRANGE', aside, 0, most - canceled - 1), queue) end
  if canceled < most and redis.call('ZCARD', aside) == 0 then
    cancel(redis.call('SMEMBERS', line_key(queue, who)), queue)
  end
  left = left + redis.call('ZCARD', aside)
end

-- RQ's own `requeue` puts a job into the list and into nobody's share of it: the whole list is read,
-- 1 ms a thousand jobs
local function purge_requeued(queue, who)
  local key, before, share, found = line_key(queue, who), canceled, {}, {}
  for _, id in ipairs(redis.call('SMEMBERS', key)) do share[id] = true end
  for _, id in ipairs(redis.call('LRANGE', list_key(queue), 0, -1)) do
    local f = not share[id] and redis.call('HMGET', job_key(id), 'x_tenant', 'status') or {}
    if f[1] == who and f[2] == 'queued' then found[#found + 1] = id end
  end
  cancel(found, queue)
  left = left + #found - (canceled - before)
end

for _, list in ipairs(KEYS) do
  local queue = string.sub(list, #list_key('') + 1)
  if tenant ~= '' then
    purge_tenant(queue, tenant)
    purge_requeued(queue, tenant)
    left = left + redis.call('SCARD', line_key(queue, tenant))
  else
    for _, who in ipairs(redis.call('HKEYS', PW .. 'asides:' .. queue)) do purge_tenant(queue, who) end
    if canceled < most then cancel(redis.call('LRANGE', list, 0, most - canceled - 1), queue) end
    left = left + redis.call('LLEN', list)
  end
end
return {canceled, left}
