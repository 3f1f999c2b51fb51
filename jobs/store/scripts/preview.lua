-- preview: store the latest previews of running jobs. Ignored for jobs whose lease is gone.
-- uses: common, job_queue
-- ARGV  of each: queue, job:execution, index of the image, the preview as JSON
-- returns the number of stored previews

local kept = 0
for i = 1, #ARGV, 4 do
  local id = string.match(ARGV[i + 1], '^(.*):')
  if redis.call('ZSCORE', RQ .. 'wip:' .. ARGV[i], ARGV[i + 1]) then
    kept = kept + 1
    redis.call('HSET', preview_key(id), ARGV[i + 2], ARGV[i + 3])
    redis.call('EXPIRE', preview_key(id), @PREVIEW_TTL_S@)
    redis.call('PUBLISH', PW .. 'events:' .. id,
      cjson.encode({type = 'preview', job = id, index = tonumber(ARGV[i + 2])}))
  end
end
return kept
