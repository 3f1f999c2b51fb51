-- read: return one job, with its place in the queue. Writes nothing.
-- uses: common, job_queue, snapshot
-- KEYS  1 job hash  2 tombstone
-- ARGV  1 job id  2 tenant
-- returns {verdict, snapshot}; verdict: ok, gone, missing (another tenant's job is missing, not
--   forbidden)

local owner = redis.call('HGET', KEYS[1], 'x_tenant')
if owner == ARGV[2] then return {'ok', snapshot(ARGV[1], clock())} end
if not owner and redis.call('GET', KEYS[2]) == ARGV[2] then return {'gone', 0} end
return {'missing', 0}
