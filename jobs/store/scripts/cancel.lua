-- cancel: end a job at once, waiting or running; a final job stays as it is.
-- uses: common, job_queue, outbox, finish_common, snapshot
-- KEYS  1 job hash  2 tombstone
-- ARGV  1 job id  2 tenant
-- returns {verdict, snapshot}; verdict: ok, gone, missing

local f = redis.call('HMGET', KEYS[1], 'x_tenant', 'status')
if f[1] ~= ARGV[2] then
  if not f[1] and redis.call('GET', KEYS[2]) == ARGV[2] then return {'gone', 0} end
  return {'missing', 0}
end
if not final(f[2]) then stop(ARGV[1], 'canceled', clock()) end
return {'ok', snapshot(ARGV[1], nil)}
