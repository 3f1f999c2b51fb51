-- admit: accept one job, or a group of up to 100 jobs, or refuse with a reason. One atomic step:
--   replay, quota, depth, inputs, then the hash of each job and its place in the line. All of it, or
--   nothing: a refusal writes nothing. Duration for 100 jobs: docs/queue.md.
-- uses: common, job_queue, outbox, finish_common, snapshot, requeue_common, settling
-- KEYS  1 tenant's open jobs  2 tenant's listing  3 RQ's set of queues
--       4 idempotency entry, where there is one
-- ARGV  1 tenant  2 maximum of waiting jobs of a model  3 maximum of waiting cost of a model
--       4 maximum of open jobs of the tenant (each '' : no limit)  5 maximum of jobs of the tenant in
--       a line  6 fingerprint, or ''  7 group's ID, or ''  8 the group's own webhook as JSON, or ''
--       then of each job: RQ's data, and a list of JSON: ID, queue, cost, deadline in s from now or '',
--       tenant/id of each input with a space between, the hash's other fields and values in turn
-- returns {ok or replay, job's ID or group's record as JSON, {{job id, snapshot or nothing}, ...}},
--       or {gone}, {mismatch}, {tenant, open, maximum}, {full, waiting}, {input, tenant/id}

local LOOK = 100  -- open jobs that are looked at before a tenant is refused: 100 us
local GROUP_TTL = @GROUP_TTL_S@

local tenant, group, now, jobs = ARGV[1], ARGV[7], clock(), {}
for i = 9, #ARGV, 2 do
  local j = cjson.decode(ARGV[i + 1])
  jobs[#jobs + 1] = {data = ARGV[i], id = j[1], queue = j[2], cost = j[3], deadline = j[4],
    inputs = j[5], fields = j[6]}
end

local function shown(ids)
  local out = {}
  for i, id in ipairs(ids) do
    local there = redis.call('EXISTS', job_key(id)) == 1
    out[i] = {id, there and snapshot(id, now) or {}}
  end
  return out
end

local function as_it_stands(verdict, id)  -- what was accepted before
  if group == '' then
    if redis.call('EXISTS', job_key(id)) == 0 then return {'gone'} end
    return {verdict, id, shown({id})}
  end
  local record = redis.call('GET', group_key(id))
  if not record then return {'gone'} end
  return {verdict, record, shown(cjson.decode(record).jobs)}
end

local function sent_before()
  if group ~= '' then
    if redis.call('EXISTS', group_key(group)) == 1 then return as_it_stands('ok', group) end
  else
    if redis.call('EXISTS', job_key(jobs[1].id)) == 1 then return as_it_stands('ok', jobs[1].id) end
    if redis.call('EXISTS', PW .. 'gone:' .. jobs[1].id) == 1 then return {'gone'} end
  end
  local used = ARGV[6] ~= '' and redis.call('GET', KEYS[4])
  if not used then return nil end
  local id, fingerprint = string.match(used, '^(%S+) (%S+)$')
  if fingerprint ~= ARGV[6] then return {'mismatch'} end
  return as_it_stands('replay', id)
end

local function over(value, most) return most ~= '' and value >= tonumber(most) end

local function open_now()  -- what RQ's tools ended or deleted holds no place, though no sweep has come
  local open = redis.call('ZCARD', KEYS[1])
  if not over(open + #jobs - 1, ARGV[4]) then return open end
  for _, id in ipairs(redis.call('ZRANGE', KEYS[1], 0, LOOK - 1)) do
    if is_over(id) then settle(id, tenant, now) end
  end
  return redis.call('ZCARD', KEYS[1])
end

local function waiting_of(model)
  local f = redis.call('HMGET', PW .. 'backlog:' .. model, 'jobs', 'cost')
  local waiting = {jobs = tonumber(f[1] or 0), cost = tonumber(f[2] or 0)}
  if over(waiting.jobs, ARGV[2]) then waiting.jobs = math.min(waiting.jobs, standing(model)) end
  waiting.before = waiting.jobs
  return waiting
end

local function too_deep()  -- each is asked as if those before it were in the line
  local by_model = {}
  for _, job in ipairs(jobs) do
    local model = model_of(job.queue)
    by_model[model] = by_model[model] or waiting_of(model)
    local waiting = by_model[model]
    -- the cost limit lets the job that crosses it in: otherwise one large job could never be sent
    if over(waiting.jobs, ARGV[2]) or over(waiting.cost, ARGV[3]) then
      return {'full', waiting.before}
    end
    waiting.jobs, waiting.cost = waiting.jobs + 1, waiting.cost + tonumber(job.cost)
  end
end

local function refused()
  local open = open_now()
  if over(open + #jobs - 1, ARGV[4]) then return {'tenant', open, ARGV[4]} end
  local full = too_deep()
  if full then return full end
  for _, job in ipairs(jobs) do
    local missing = missing_input(job.inputs)
    if missing then return {'input', missing} end
  end
end

local function accept(job)
  local id, key = job.id, job_key(job.id)
  if job.inputs ~= '' then hold_inputs(id, job.inputs, now) end
  redis.call('HSET', key, 'data', job.data, unpack(job.fields))
  redis.call('HSET', key, 'created_at', iso(now), 'enqueued_at', iso(now), 'x_enq', exact(now))
  if job.deadline ~= '' then
    local deadline = exact(now + job.deadline)
    redis.call('HSET', key, 'x_deadline', deadline)
    redis.call('ZADD', PW .. 'deadlines', deadline, id)
  end
  count_open(id, tenant, now)
  redis.call('ZADD', KEYS[2], 0, id)  -- equal scores: the IDs, which sort by time, are the order
  redis.call('SADD', KEYS[3], list_key(job.queue))
  if redis.call('SCARD', line_key(job.queue, tenant)) >= tonumber(ARGV[5]) then
    stand_aside(id, job.queue, tenant)
  else
    join_line(id, job.queue, tenant, true)
  end
  count_in(id, job.queue, job.cost)
end

local function write_group(ids)
  local record = cjson.encode({id = group, tenant = tenant, created_at = iso(now), jobs = ids})
  local ends = {'left', #ids}
  for _, id in ipairs(ids) do
    ends[#ends + 1] = id
    ends[#ends + 1] = ''
  end
  if ARGV[8] ~= '' then
    ends[#ends + 1] = 'webhook'
    ends[#ends + 1] = ARGV[8]
  end
  redis.call('SET', group_key(group), record, 'EX', GROUP_TTL)
  redis.call('HSET', group_key(group) .. ':ends', unpack(ends))
  redis.call('EXPIRE', group_key(group) .. ':ends', GROUP_TTL)
  return record
end

local answer = sent_before() or refused()
if answer then return answer end
local ids = {}
for i, job in ipairs(jobs) do
  accept(job)
  ids[i] = job.id
end
redis.call('EXPIRE', KEYS[2], LISTING_TTL)
local made = group ~= '' and write_group(ids) or ids[1]
if ARGV[6] ~= '' then
  local ttl = group ~= '' and GROUP_TTL or OPEN_TTL
  redis.call('SET', KEYS[4], (group ~= '' and group or ids[1]) .. ' ' .. ARGV[6], 'EX', ttl)
end
return {'ok', made, shown(ids)}
