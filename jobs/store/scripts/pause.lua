-- pause: stop giving jobs to workers, or resume (claim reads the same flag, RQ's).
-- uses: common, job_queue
-- ARGV  1 pause or resume  2... queues to count, besides those that RQ knows
-- returns the number of running jobs: those with a lease at this moment

if ARGV[1] == 'pause' then
  redis.call('SET', RQ .. 'suspended', 1)
else
  redis.call('DEL', RQ .. 'suspended')
end
local running, counted = 0, {}
local function count(queue)
  if not counted[queue] then running = running + redis.call('ZCARD', RQ .. 'wip:' .. queue) end
  counted[queue] = true
end
for i = 2, #ARGV do count(ARGV[i]) end
for _, key in ipairs(redis.call('SMEMBERS', RQ .. 'queues')) do
  count(string.sub(key, #list_key('') + 1))
end
return running
