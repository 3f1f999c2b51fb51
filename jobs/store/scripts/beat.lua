-- beat: renew a worker's heartbeat and the leases of all executions that it runs, in one step.
-- uses: common, job_queue
-- KEYS  1 worker's RQ hash  2 worker's set of executions  3 worker's own report
-- ARGV  1 worker_ttl_s  2 lease_s  3 report as JSON  4 report's TTL in s  5 worker's name
--       6 number of models  then of each: model, megapixel-rows a second, work held
--       then of each execution: its queue, job:execution
-- returns {worker hash existed: 1 or 0, worker is to end: 1 or 0, {job:execution of each lost lease},
--         {queue, job:execution of each lease of this worker that ARGV does not name}}

local now, known = clock(), {}
local ttl, lease, models = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[6])
local there = redis.call('EXISTS', KEYS[1])
redis.call('HSET', KEYS[1], 'last_heartbeat', iso(now))
redis.call('EXPIRE', KEYS[1], ttl)
redis.call('EXPIRE', KEYS[2], ttl)
redis.call('SET', KEYS[3], ARGV[3], 'EX', ARGV[4])
for i = 7, 6 + 3 * models, 3 do
  local fleet = PW .. 'fleet:' .. ARGV[i]
  redis.call('HSET', fleet, ARGV[5], exact(now) .. ' ' .. ARGV[i + 1] .. ' ' .. ARGV[i + 2])
  redis.call('EXPIRE', fleet, ARGV[4])
end

local lost, strangers = {}, {}
for i = 7 + 3 * models, #ARGV, 2 do
  local queue, both = ARGV[i], ARGV[i + 1]
  local id, eid = string.match(both, '^(.*):(.*)$')
  known[both] = true
  local leased = redis.call('ZSCORE', RQ .. 'wip:' .. queue, both)
  if leased and redis.call('EXISTS', job_key(id)) == 0 then  -- an operator's Job.delete
    redis.call('ZREM', RQ .. 'wip:' .. queue, both)
    leased = false
  end
  if leased then
    redis.call('ZADD', RQ .. 'wip:' .. queue, exact(now + lease), both)
    redis.call('HSET', RQ .. 'execution:' .. both, 'last_heartbeat', exact(now))
    redis.call('EXPIRE', RQ .. 'execution:' .. both, lease + 60)
    redis.call('ZADD', RQ .. 'executions:' .. id, exact(now + lease + 60), eid)
    redis.call('EXPIRE', RQ .. 'executions:' .. id, lease + 60)
    redis.call('HSET', job_key(id), 'last_heartbeat', iso(now))
  else
    lost[#lost + 1] = both
    redis.call('SREM', KEYS[2], both)
  end
end
for _, both in ipairs(redis.call('SMEMBERS', KEYS[2])) do
  if not known[both] then
    strangers[#strangers + 1] = redis.call('HGET', job_key(string.match(both, '^(.*):')), 'origin') or ''
    strangers[#strangers + 1] = both
  end
end
-- as RQ's own workers say it; claim says busy at once
local held, paused = redis.call('SCARD', KEYS[2]), redis.call('EXISTS', RQ .. 'suspended') == 1
redis.call('HSET', KEYS[1], 'state', held > 0 and 'busy' or paused and 'suspended' or 'idle')
return {there, redis.call('HEXISTS', KEYS[1], 'x_drain'), lost, strangers}
