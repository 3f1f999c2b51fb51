-- queue: return the load of one model. Writes nothing.
-- uses: common, job_queue, snapshot
-- ARGV  1 model  2... its queues
-- returns {queued, running, cost, megapixel-rows a second, work held, workers}

local queued, running = standing(ARGV[1]), 0
for i = 2, #ARGV do
  running = running + redis.call('ZCARD', RQ .. 'wip:' .. ARGV[i])
end
local cost = redis.call('HGET', PW .. 'backlog:' .. ARGV[1], 'cost') or '0'
return {tostring(queued), tostring(running), cost, pace(ARGV[1], clock())}
