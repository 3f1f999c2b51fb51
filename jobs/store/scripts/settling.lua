-- settling: end or requeue open jobs that RQ's tools or operators ended, deleted or displaced.
-- uses: common, job_queue, outbox, finish_common, requeue_common
-- Included. Invariant: a job that has a place of its tenant's quota waits in one line or is leased;
-- any other has ended, and is ended here with all that its end means.

local ENDED_AS = {finished = 'succeeded', failed = 'failed', stopped = 'canceled', canceled = 'canceled'}
local UNTOLD_SEQ = 65535  -- above the number of any event that a deleted job told

local function status_of(id)  -- nil: there is no such job; what is no hash is none
  local status = redis.pcall('HGET', job_key(id), 'status')
  if type(status) == 'string' then return status end
  if status then redis.call('DEL', job_key(id)) end
end

local function is_over(id)  -- and still counted
  local status = status_of(id)
  return not status or final(status)
end

-- `rq empty`, the dashboard's Delete, DEL: it ends as canceled. Its record went with its hash: 410.
local function settle_deleted(id, tenant, now)
  local read, kept = pcall(cjson.decode, redis.call('HGET', kept_key(tenant), id) or '')
  if not read then  -- accepted before this was kept, and not looked at since
    uncount_open(id, tenant)
    redis.call('ZREM', PW .. 'deadlines', id)
    redis.call('SET', PW .. 'gone:' .. id, tenant, 'EX', GONE_TTL)
    return
  end
  redis.call('HSET', job_key(id), 'status', 'queued', 'x_seq', UNTOLD_SEQ - 1, unpack(kept))
  local f = redis.call('HMGET', job_key(id), 'origin', 'x_cost')
  local queue = f[1] or ''
  if redis.call('SISMEMBER', line_key(queue, tenant), id) == 1
    or redis.call('ZSCORE', aside_key(queue, tenant), id) then
    redis.call('HSET', job_key(id), 'x_waiting', f[2] or '0')  -- the backlog counts it still
  end
  forget(id, tenant, now)
end

local function settle_ended(id, tenant, status, now)  -- `rq cancel`, a stock worker
  local f = redis.call('HMGET', job_key(id), 'origin', 'worker_name')
  local queue = f[1] or ''
  leave_line(id, queue, tenant)
  drop_executions(id, queue, f[2] or '')
  if status == 'failed' then redis.call('HSETNX', job_key(id), 'x_error', '@UNEXPLAINED@') end
  local ttl = close(id, ENDED_AS[status], now)
  if status == 'canceled' then redis.call('ZADD', RQ .. 'canceled:' .. queue, exact(now + ttl), id) end
end

local function stand_again(id, queue, tenant, cost)  -- it waits, and our books have no place of it
  if redis.call('LPOS', list_key(queue), id) then
    redis.call('SADD', line_key(queue, tenant), id)  -- RQ's own requeue or retry put it there
  else
    join_line(id, queue, tenant, false)
  end
  count_in(id, queue, cost)
end

local function leased(id, queue)
  local registry = RQ .. 'wip:' .. queue
  for _, eid in ipairs(redis.call('ZRANGE', RQ .. 'executions:' .. id, 0, -1)) do
    if redis.call('ZSCORE', registry, id .. ':' .. eid) then return true end
  end
  for _, both in ipairs(redis.call('ZRANGE', registry, 0, -1)) do  -- the key above has a TTL
    if string.sub(both, 1, #id + 1) == id .. ':' then return true end
  end
  return false
end

local function settle_open(id, tenant, status)
  local f = redis.call('HMGET', job_key(id), 'origin', 'x_cost', 'x_deadline')
  local queue, cost = f[1] or '', f[2] or '0'
  if redis.call('HEXISTS', kept_key(tenant), id) == 0 then keep(id, tenant) end
  if f[3] then redis.call('ZADD', PW .. 'deadlines', 'NX', f[3], id) end
  if status == 'queued' then
    if not redis.call('ZSCORE', aside_key(queue, tenant), id)
      and redis.call('SISMEMBER', line_key(queue, tenant), id) == 0 then
      stand_again(id, queue, tenant, cost)
    end
  elseif status == 'started' and not leased(id, queue) then
    drop_executions(id, queue, redis.call('HGET', job_key(id), 'worker_name') or '')
    tally('returned|lease')
    wait_again(id, queue, tenant, cost)
  end
end

local function settle_strictly(id, tenant, now)
  local status = status_of(id)
  local over = not status or final(status)
  if not status then
    settle_deleted(id, tenant, now)
  elseif over then
    settle_ended(id, tenant, status, now)
  else
    settle_open(id, tenant, status)
  end
  if over then uncount_open(id, tenant) end  -- whatever tenant its hash names
  return over
end

-- returns whether it was open no more, and has ended now; and why not, where its fields are damaged:
-- one such job must not keep the others from their ends
local function settle(id, tenant, now)
  local read, over = pcall(settle_strictly, id, tenant, now)
  if read then return over end
  return false, type(over) == 'table' and over.err or tostring(over)
end
