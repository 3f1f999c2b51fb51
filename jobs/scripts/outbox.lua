-- outbox: what webhooks tell of a job, written in the same step as the change itself.
-- Included after common. Invariant: the change and its event are there, or neither; no prompt goes in.
-- The courier makes deliveries of it (jobs/webhooks/outbox.py). Everything that it needs is copied,
-- since the record may be deleted before a courier comes.

local OUTBOX_TTL = @OUTBOX_TTL_S@
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
