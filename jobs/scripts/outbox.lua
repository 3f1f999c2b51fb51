-- outbox: what webhooks tell of a job, written in the same step as the change itself.
-- Included after common. Invariant: the change and its event are there, or neither; no prompt goes in.
-- The courier makes deliveries of it (jobs/webhooks/outbox.py). Everything that it needs is copied,
-- since the record may be deleted before a courier comes.

local OUTBOX_TTL = @OUTBOX_TTL_S@

local function announce(id, word, now)  -- word: started, succeeded, failed, canceled, expired
  local f = redis.call('HMGET', job_key(id), 'x_tenant', 'x_webhook')
  local tenant, own, kind = f[1] or '', f[2], 'job.' .. word
  local asked = own and string.find(own, '"' .. kind .. '"', 1, true)
  if not asked and redis.call('SISMEMBER', PW .. 'endpoints:' .. tenant .. ':events', kind) == 0 then
    return
  end
  local seq = redis.call('HINCRBY', job_key(id), 'x_seq', 1)
  local g = redis.call('HMGET', job_key(id), 'x_spec', 'x_images', 'x_error', 'x_metrics',
    'created_at', 'started_at')
  local read, spec = pcall(cjson.decode, g[1] or '')
  redis.call('RPUSH', PW .. 'outbox', cjson.encode({
    id = 'msg_' .. string.gsub(id, '-', '') .. string.format('%02x', seq),
    type = kind, tenant = tenant, job = id, status = word, seq = seq, at = iso(now),
    seed = read and spec.seeds and spec.seeds[1] or nil, webhook = asked and own or nil,
    images = g[2] or nil, error = g[3] or nil, metrics = g[4] or nil,
    created_at = g[5] or nil, started_at = g[6] or nil}))
  redis.call('EXPIRE', PW .. 'outbox', OUTBOX_TTL)
end
