-- delete: cancel a job if it is not final, and remove its prompt, record and results; 410 from now on.
-- uses: common, job_queue, outbox, finish_common
-- KEYS  1 job hash  2 tombstone
-- ARGV  1 job id  2 tenant
-- returns {verdict, images, file extension, inputs that no job holds now}; verdict: ok, gone, missing

local owner = redis.call('HGET', KEYS[1], 'x_tenant')
if owner ~= ARGV[2] then
  if not owner and redis.call('GET', KEYS[2]) == ARGV[2] then return {'gone'} end
  return {'missing'}
end
return {'ok', forget(ARGV[1], ARGV[2], clock())}
