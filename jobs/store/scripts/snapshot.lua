-- snapshot: read a job: its fields, and its place while it waits.
--   snapshot: {READ_FIELDS as text or nil, {} or {position, cost ahead, then pace}}
--   pace: {megapixel-rows a second of all workers, work they hold, workers}; all as text
-- uses: common, job_queue
-- Included.

local READ_FIELDS = {@READ_FIELDS@}
local HIGHER = {high = {}, normal = {'high'}, low = {'high', 'normal'}}
local FRESH_S = 15  -- a worker that has not spoken for a lease adds nothing to the pace

local function pace(model, now)
  local rate, held, workers = 0, 0, 0
  local said = redis.call('HGETALL', PW .. 'fleet:' .. model)
  for i = 2, #said, 2 do
    local at, per_s, running = string.match(said[i], '^(%S+) (%S+) (%S+)$')
    if at and now - tonumber(at) < FRESH_S then
      rate, held, workers = rate + tonumber(per_s), held + tonumber(running), workers + 1
    end
  end
  return exact(rate), exact(held), tostring(workers)
end

local function standing(model)  -- how many jobs wait, by the lines themselves
  local jobs = 0
  for level in pairs(HIGHER) do
    local queue = model .. '.' .. level
    jobs = jobs + redis.call('LLEN', list_key(queue))
    for _, n in ipairs(redis.call('HVALS', PW .. 'asides:' .. queue)) do jobs = jobs + tonumber(n) end
  end
  return jobs
end

local function position(id, queue, tenant)
  local model, level = string.match(queue, '^(.*)%.(.-)$')
  local ahead = 0
  for _, higher in ipairs(HIGHER[level] or {}) do
    ahead = ahead + redis.call('LLEN', list_key(model .. '.' .. higher))
  end
  local aside = redis.call('ZRANK', aside_key(queue, tenant), id)
  if aside then  -- those enter the line in turns with the other tenants that have jobs aside
    local turns = redis.call('HLEN', PW .. 'asides:' .. queue)
    return ahead + redis.call('LLEN', list_key(queue)) + aside * turns
  end
  local at = redis.call('LPOS', list_key(queue), id)
  return at and ahead + at or nil
end

local function place(id, queue, tenant, now)
  local at = position(id, queue, tenant)
  if not at then return {} end
  local backlog = redis.call('HMGET', PW .. 'backlog:' .. model_of(queue), 'jobs', 'cost')
  local jobs, cost = tonumber(backlog[1] or 0), tonumber(backlog[2] or 0)
  local ahead = jobs > 0 and cost * math.min(1, at / jobs) or 0
  return {tostring(at), exact(ahead), pace(model_of(queue), now)}
end

local function snapshot(id, now)
  local fields = redis.call('HMGET', job_key(id), unpack(READ_FIELDS))
  local f = redis.call('HMGET', job_key(id), 'status', 'origin', 'x_tenant')
  if f[1] ~= 'queued' or not now then return {fields, {}} end
  return {fields, place(id, f[2] or '', f[3] or '', now)}
end
