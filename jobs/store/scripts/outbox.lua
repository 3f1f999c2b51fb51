-- outbox: append webhook events of a job to pw:outbox, in the same step as the change itself. The
--   courier makes deliveries of them (jobs/webhooks/outbox.py). All that an event needs is copied,
--   since the record may be deleted before a courier comes.
-- uses: common, job_queue
-- Included. Invariant: the change and its event are there, or neither; no prompt goes in.

local PROGRESS_MS = 500  -- at most one progress event of a job in this time

local function wanted(id, kind)  -- whether anybody is; tenant; the job's own webhook if it asks
  local f = redis.call('HMGET', job_key(id), 'x_tenant', 'x_webhook')
  local tenant, own = f[1] or '', f[2] or nil
  if own and not string.find(own, '"' .. kind .. '"', 1, true) then own = nil end
  local any = own or redis.call('SISMEMBER', PW .. 'endpoints:' .. tenant .. ':events', kind) == 1
  return any, tenant, own
end

local function post(id, kind, event)
  local any, tenant, own = wanted(id, kind)
  if not any then return end
  event.seq = redis.call('HINCRBY', job_key(id), 'x_seq', 1)
  event.id = 'msg_' .. string.gsub(id, '-', '') .. string.format('%02x', event.seq)
  event.type, event.tenant, event.job, event.webhook = kind, tenant, id, own
  event.trace = redis.call('HGET', job_key(id), 'x_trace') or nil
  redis.call('RPUSH', PW .. 'outbox', cjson.encode(event))
  redis.call('EXPIRE', PW .. 'outbox', OUTBOX_TTL)
end

local function announce(id, word, now)  -- word: started, succeeded, failed, canceled, expired
  local kind = 'job.' .. word
  if not wanted(id, kind) then return end  -- the usual case: nothing more is read
  local f = redis.call('HMGET', job_key(id), 'x_spec', 'x_images', 'x_error', 'x_metrics',
    'created_at', 'started_at')
  local read, spec = pcall(cjson.decode, f[1] or '')
  post(id, kind, {status = word, at = iso(now), seed = read and spec.seeds and spec.seeds[1] or nil,
    images = f[2] or nil, error = f[3] or nil, metrics = f[4] or nil, created_at = f[5] or nil,
    started_at = f[6] or nil})
end

local function announce_progress(id, now, stage, step, steps)
  if not wanted(id, 'job.progress') then return end
  if not redis.call('SET', PW .. 'progress:' .. id, 1, 'NX', 'PX', PROGRESS_MS) then return end
  post(id, 'job.progress', {status = 'running', at = iso(now), stage = stage,
    step = tonumber(step), steps = tonumber(steps)})
end

-- A group is over when the last of its jobs is. A job that an operator sends again ends it no second time.
local function leave_group(id, word, now)
  local f = redis.call('HMGET', job_key(id), 'x_group', 'x_tenant', 'x_trace')
  if not f[1] then return end
  local group, tenant, kind = f[1], f[2] or '', 'group.completed'
  local key = group_key(group) .. ':ends'
  if redis.call('HGET', key, id) ~= '' then return end
  redis.call('HSET', key, id, word)
  if redis.call('HINCRBY', key, 'left', -1) > 0 then return end
  local own = redis.call('HGET', key, 'webhook')
  if not own and redis.call('SISMEMBER', PW .. 'endpoints:' .. tenant .. ':events', kind) == 0 then return end
  local ends, all = {}, redis.call('HGETALL', key)
  for i = 1, #all, 2 do
    if all[i] ~= 'left' and all[i] ~= 'webhook' then ends[all[i]] = all[i + 1] end
  end
  redis.call('RPUSH', PW .. 'outbox', cjson.encode({type = kind, tenant = tenant, group = group,
    id = 'msg_' .. string.gsub(group, '-', '') .. '01', at = iso(now), webhook = own or nil,
    ends = cjson.encode(ends), trace = f[3] or nil}))
  redis.call('EXPIRE', PW .. 'outbox', OUTBOX_TTL)
end
