-- job_queue: key names of jobs, the quota of open jobs, the backlog, and the line of waiting jobs.
-- uses: common
-- Included.

local OPEN_TTL, GONE_TTL, LISTING_TTL = @OPEN_TTL_S@, @GONE_TTL_S@, @LISTING_TTL_S@

local function job_key(id) return RQ .. 'job:' .. id end
local function list_key(queue) return RQ .. 'queue:' .. queue end
local function group_key(group) return PW .. 'group:' .. group end
local function open_key(tenant) return PW .. 'tenant:' .. tenant .. ':open' end
local function kept_key(tenant) return PW .. 'tenant:' .. tenant .. ':kept' end
local function preview_key(id) return PW .. 'preview:' .. id end
local function model_of(queue) return string.match(queue, '^(.*)%.') or queue end
local function final(status)
  return status == 'finished' or status == 'failed' or status == 'stopped' or status == 'canceled'
end

local function tell(id, status)  -- followers; lossy, the hash is the truth
  redis.call('PUBLISH', PW .. 'events:' .. id,
    cjson.encode({type = 'status', job = id, status = status}))
end

-- An open job has a place of its tenant's quota. What its end needs is kept beside its hash: where
-- RQ's own tools delete the hash, it still ends, with its event, its group and its inputs (settling).
-- The prompt is not among it: it is in one field and nowhere else.
local KEPT = {'x_tenant', 'origin', 'created_at', 'result_ttl', 'x_enq', 'x_n', 'x_ext', 'x_cost',
  'x_work', 'x_key', 'x_group', 'x_trace', 'x_webhook', 'x_idem', 'x_inputs'}

local function keep(id, tenant)
  local values, kept = redis.call('HMGET', job_key(id), unpack(KEPT)), {}
  for i, name in ipairs(KEPT) do
    if values[i] then
      kept[#kept + 1] = name
      kept[#kept + 1] = values[i]
    end
  end
  redis.call('HSET', kept_key(tenant), id, cjson.encode(kept))
end

local function count_open(id, tenant, since)
  if redis.call('ZADD', open_key(tenant), 'NX', exact(since), id) == 1 then keep(id, tenant) end
  redis.call('SADD', PW .. 'tenants', tenant)
  for _, key in ipairs({open_key(tenant), kept_key(tenant), PW .. 'tenants'}) do
    redis.call('EXPIRE', key, OPEN_TTL)
  end
end

local function uncount_open(id, tenant)
  redis.call('ZREM', open_key(tenant), id)
  redis.call('HDEL', kept_key(tenant), id)
end

-- The backlog counts what waits. x_waiting holds what a job was counted with, so that no path,
-- RQ's own included, can subtract it twice.
local function count_in(id, queue, cost)
  if redis.call('HSETNX', job_key(id), 'x_waiting', cost) == 0 then return end
  local key = PW .. 'backlog:' .. model_of(queue)
  redis.call('HINCRBY', key, 'jobs', 1)
  redis.call('HINCRBYFLOAT', key, 'cost', cost)
  redis.call('EXPIRE', key, OPEN_TTL)
end

local function count_out(id, queue)
  local cost = redis.call('HGET', job_key(id), 'x_waiting')
  if not cost then return end
  local key = PW .. 'backlog:' .. model_of(queue)
  redis.call('HDEL', job_key(id), 'x_waiting')
  redis.call('HINCRBY', key, 'jobs', -1)
  redis.call('HINCRBYFLOAT', key, 'cost', '-' .. cost)
end

-- A tenant has a few jobs in the line (RQ's list) at a time; the rest wait aside, in order. That
-- is the whole of fair share: whoever comes stands behind a few of each, not behind a flood.
local function line_key(queue, tenant) return PW .. 'line:' .. queue .. ':' .. tenant end
local function aside_key(queue, tenant) return PW .. 'aside:' .. queue .. ':' .. tenant end

local function join_line(id, queue, tenant, end_of_line)
  redis.call('SADD', line_key(queue, tenant), id)
  redis.call(end_of_line and 'RPUSH' or 'LPUSH', list_key(queue), id)
end

local function stand_aside(id, queue, tenant)  -- in the order of coming, which no clock can turn round
  local key = aside_key(queue, tenant)
  local last = redis.call('ZRANGE', key, -1, -1, 'WITHSCORES')
  redis.call('ZADD', key, tonumber(last[2] or 0) + 1, id)
  redis.call('HINCRBY', PW .. 'asides:' .. queue, tenant, 1)
end

local function left_aside(queue, tenant)
  if redis.call('HINCRBY', PW .. 'asides:' .. queue, tenant, -1) <= 0 then
    redis.call('HDEL', PW .. 'asides:' .. queue, tenant)
  end
end

local function let_next_in(queue, tenant)
  local next_id = redis.call('ZPOPMIN', aside_key(queue, tenant))[1]
  if not next_id then return false end
  left_aside(queue, tenant)
  join_line(next_id, queue, tenant, true)
  return true
end

local function leave_line(id, queue, tenant)
  count_out(id, queue)
  if redis.call('ZREM', aside_key(queue, tenant), id) == 1 then return left_aside(queue, tenant) end
  redis.call('LREM', list_key(queue), 1, id)
  redis.call('SREM', line_key(queue, tenant), id)
  let_next_in(queue, tenant)
end
