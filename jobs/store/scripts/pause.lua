-- pause: from this moment no worker is given a job (claim asks the same flag, RQ's), or again.
-- uses: common, job_queue
-- ARGV  1 pause or resume  2... queues to count, besides those that RQ knows
-- returns how many jobs run: those that somebody has the lease of, at this moment

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
