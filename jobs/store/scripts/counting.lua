-- counting: count the ends of jobs in the step that writes them, so the counts are true after any
--   crash. Each end is counted twice: in `pw:counts`, for metrics of all processes together, by labels
--   from closed sets; and as use of the tenant, by day (UTC) and API key.
--   Fields of pw:counts: name|label|... (jobs/store/counters.py reads them).
-- uses: common, job_queue
-- Included.

local COUNTS, USAGE_TTL = PW .. 'counts', @USAGE_TTL_S@
local REASONS, BUCKETS_S = {@REASONS@}, {@BUCKETS_S@}

local function tally(name, by) redis.call('HINCRBY', COUNTS, name, by or 1) end

local function tally_seconds(name, seconds)  -- a histogram: the first bucket that holds it, and the sum
  local bucket = 'inf'
  for _, bound in ipairs(BUCKETS_S) do
    if seconds <= bound then
      bucket = tostring(bound)
      break
    end
  end
  tally(name .. '|' .. bucket)
  redis.call('HINCRBYFLOAT', COUNTS, name .. '|sum', exact(seconds))
end

local function reason_in(error)  -- of a failure: one of ours, or `other`
  local read, told = pcall(cjson.decode, error or '')
  return read and REASONS[told.code] and told.code or 'other'
end

local function count_success(model, made, metrics)
  local read, m = pcall(cjson.decode, metrics or '')
  tally('images|' .. model, made)
  if not read then return end
  for _, stage in ipairs({'encode', 'denoise', 'decode', 'upload'}) do
    local ms = tonumber(m[stage .. '_ms'])
    if ms then redis.call('HINCRBYFLOAT', COUNTS, 'stage|' .. model .. '|' .. stage, exact(ms / 1000)) end
  end
  if m.upload_ms then tally_seconds('seconds|upload|succeeded', m.upload_ms / 1000) end
  if m.batch_size_mean then
    redis.call('HINCRBYFLOAT', COUNTS, 'batch|' .. model, exact(m.batch_size_mean))
    tally('batched|' .. model)
  end
end

local function count_usage(tenant, api_key, word, images, work, now)
  local day = string.sub(iso(now), 1, 10)
  local tenants = PW .. 'usage:' .. day
  local key = tenants .. ':' .. tenant
  redis.call('HINCRBY', key, api_key .. '|' .. word, 1)
  if word == 'succeeded' then
    redis.call('HINCRBY', key, api_key .. '|images', images)
    redis.call('HINCRBYFLOAT', key, api_key .. '|work', work)
  end
  redis.call('EXPIRE', key, USAGE_TTL)
  redis.call('SADD', tenants, tenant)
  redis.call('EXPIRE', tenants, USAGE_TTL)
end

local function count_end(id, word, now)  -- word: succeeded, failed, canceled, expired
  local f = redis.call('HMGET', job_key(id), 'origin', 'x_error', 'x_enq', 'x_queue_ms', 'x_started',
    'worker_name', 'x_n', 'x_work', 'x_tenant', 'x_key', 'x_metrics')
  local model = model_of(f[1] or '')
  tally('jobs|' .. model .. '|' .. word .. '|' .. (word == 'failed' and reason_in(f[2]) or ''))
  tally_seconds('seconds|total|' .. word, now - tonumber(f[3] or now))
  if f[4] then tally_seconds('seconds|queue|' .. word, tonumber(f[4]) / 1000) end
  if f[5] and f[6] and f[6] ~= '' then
    tally_seconds('seconds|run|' .. word, now - tonumber(f[5]))
  end
  if word == 'succeeded' then count_success(model, tonumber(f[7] or 0), f[11]) end
  count_usage(f[9] or '', f[10] or '-', word, tonumber(f[7] or 0), f[8] or '0', now)
end
